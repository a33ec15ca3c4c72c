#include "lanes_eight.h"

using WidestLanes = EightLanes;
