# One object library per instruction set, each with flags of its own; no target ever gets ISA flags.
#
# wf_add_isas(core) adds the isa_*.cpp that this processor family can use to `core`, tells
# dispatch.cpp which tables exist, and leaves their names in WF_ISA_TARGETS for the symbol guard.

# -O3: the plain loops of the kernel sources are meant to be vectorised.
set(WF_ISA_FLAGS -O3 -fno-exceptions -fno-rtti -fno-threadsafe-statics)

function(wf_add_isa core name macro)
  set(target wf_isa_${name})
  add_library(${target} OBJECT ${CMAKE_CURRENT_SOURCE_DIR}/isa_${name}.cpp)
  target_include_directories(${target} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_compile_options(${target} PRIVATE ${WF_ISA_FLAGS})
  set_source_files_properties(${CMAKE_CURRENT_SOURCE_DIR}/isa_${name}.cpp PROPERTIES
    COMPILE_OPTIONS "${ARGN}")
  target_sources(${core} PRIVATE $<TARGET_OBJECTS:${target}>)
  if(macro)
    target_compile_definitions(${core} PRIVATE ${macro})
  endif()
  set_property(GLOBAL APPEND PROPERTY WF_ISA_TARGETS ${target})
endfunction()

function(wf_add_isas core)
  wf_add_isa(${core} scalar "")
endfunction()
