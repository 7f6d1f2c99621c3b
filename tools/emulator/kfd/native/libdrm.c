// The part of libdrm_amdgpu that AMD's runtime asks about a device.
#define _GNU_SOURCE
#include "kfd.h"

#include <fcntl.h>

// As libdrm's amdgpu.h has it.
typedef struct {
  u32 asic_id, chip_rev, chip_external_rev, family_id;
  u64 ids_flags, max_engine_clk, max_memory_clk;
  u32 num_shader_engines, num_shader_arrays_per_engine, avail_quad_shader_pipes, max_quad_shader_pipes, cache_entries_per_quad_pipe;
  u32 num_hw_gfx_contexts, rb_pipes, enabled_rb_pipes_mask, gpu_counter_freq, backend_disable[4], mc_arb_ramcfg, gb_addr_cfg;
  u32 gb_tile_mode[32], gb_macro_tile_mode[16], pa_sc_raster_cfg[4], pa_sc_raster_cfg1[4];
  u32 cu_active_number, cu_ao_mask, cu_bitmap[4][4], vram_type, vram_bit_width, ce_ram_size, vce_harvest_config, pci_rev_id;
} GpuInfo;

typedef struct {
  Gpu *gpu;
} Device;
static Device devices[MAX_GPUS];

EXPORT int amdgpu_device_initialize(int fd, u32 *major, u32 *minor, Device **out) {
  int device = device_of(fd);
  if (device < IS_RENDER) return -EINVAL;
  *major = 3;
  *minor = 54;
  *out = &devices[device - IS_RENDER];
  (*out)->gpu = &gpus[device - IS_RENDER];
  return 0;
}

EXPORT int amdgpu_device_deinitialize(Device *device) {
  (void)device;
  return 0;
}

// The caller closes it.
EXPORT int amdgpu_device_get_fd(Device *device) { return fcntl(device->gpu->render_fd, F_DUPFD_CLOEXEC, 0); }

EXPORT const char *amdgpu_get_marketing_name(Device *device) { return device->gpu->name; }

EXPORT int amdgpu_query_gpu_info(Device *device, GpuInfo *out) {
  const Gpu *g = device->gpu;
  *out = (GpuInfo){.asic_id = g->device_id, .family_id = g->family, .chip_external_rev = 1, .max_engine_clk = 2500000,
                   .max_memory_clk = 1250000, .num_shader_engines = g->engines, .num_shader_arrays_per_engine = 2,
                   .num_hw_gfx_contexts = 8, .rb_pipes = 16, .gpu_counter_freq = 100000, .gb_addr_cfg = 0x10000545,
                   .cu_active_number = g->compute_units, .vram_type = 9, .vram_bit_width = 384};
  return 0;
}
