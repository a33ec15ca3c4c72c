"""Speed of the engine: shapes of real models, synthetic files of them, and one measured run."""
