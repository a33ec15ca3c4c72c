# One object library per instruction set, each with flags of its own; no target ever gets ISA flags.
#
# wf_add_isas(core) adds the isa_*.cpp that this processor family can use to `core`, tells
# dispatch.cpp which tables exist, and leaves their names in WF_ISA_TARGETS for the symbol guard.

include(CheckCXXCompilerFlag)

# -O3: the plain loops of the kernel sources are meant to be vectorised. With a sanitizer's checks in
# every lane gcc takes minutes for that, and the tests do not need it.
set(WF_ISA_FLAGS -fno-exceptions -fno-rtti -fno-threadsafe-statics)
if(WF_SANITIZE)
  list(APPEND WF_ISA_FLAGS -O1)
else()
  list(APPEND WF_ISA_FLAGS -O3)
endif()

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
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    wf_add_isa(${core} avx2 WF_HAVE_AVX2 -mavx2 -mfma -mf16c -mbmi2)
    # gcc 12 warns about the undefined operands inside its own AVX-512 intrinsics (gcc bug 105593).
    set(avx512vnni -mavx2 -mfma -mf16c -mbmi2 -mavx512f -mavx512bw -mavx512dq -mavx512vl
      -mavx512vnni -mprefer-vector-width=512
      $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized> -Wno-uninitialized)
    wf_add_isa(${core} avx512vnni WF_HAVE_AVX512VNNI ${avx512vnni})
    wf_add_isa(${core} avx512vbmi WF_HAVE_AVX512VNNI ${avx512vnni} -mavx512vbmi)
    wf_add_isa(${core} avx512bf16 WF_HAVE_AVX512VNNI ${avx512vnni} -mavx512bf16)
    check_cxx_compiler_flag(-mavxvnni WF_COMPILES_AVXVNNI)
    if(WF_COMPILES_AVXVNNI)
      wf_add_isa(${core} avxvnni WF_HAVE_AVXVNNI -mavx2 -mfma -mf16c -mbmi2 -mavxvnni)
    endif()
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    # gcc would move the loads of a whole block to its front, and sums out to the stack for them.
    set(in_order $<$<CXX_COMPILER_ID:GNU>:-fno-schedule-insns>)
    wf_add_isa(${core} dotprod WF_HAVE_NEON ${in_order} -march=armv8.2-a+dotprod)
    wf_add_isa(${core} i8mm WF_HAVE_NEON ${in_order} -march=armv8.2-a+dotprod+i8mm)
  endif()
endfunction()
