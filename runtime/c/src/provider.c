#include "provider.h"

#include <stdio.h>
#include <string.h>

#include "status.h"

enum { CPU, CUDA, TENSORRT, NV_TENSORRT_RTX, OPENVINO };

static const cff__provider providers[] = {
    {"cpu", "CPUExecutionProvider", NULL, true},
    {"cuda", "CUDAExecutionProvider", "Cuda", false},
    {"tensorrt", "TensorrtExecutionProvider", "Cuda", false},
    {"nv-tensorrt-rtx", "NvTensorRTRTXExecutionProvider", "Cuda", false},
    {"openvino", "OpenVINOExecutionProvider", NULL, false},
#if defined(CFF__TEST_DEVICE) /* the host plays a device, for tests where there is none */
    {"test-device", "CPUExecutionProvider", "Cpu", false},
#endif
};
#define N_PROVIDERS (sizeof providers / sizeof *providers)

static cff_status check_available(const cff__provider *provider) {
  const OrtApi *ort = cff__ort();
  char **names = NULL, list[400] = "";
  int n_names = 0;
  OrtStatus *status = ort->GetAvailableProviders(&names, &n_names);
  cff_status done = cff__ort_check(status, "list", "providers");
  if (done != CFF_OK) return done;
  bool found = false;
  for (int i = 0; i < n_names; i++) {
    size_t n = strlen(list);
    snprintf(list + n, sizeof list - n, "%s%s", i > 0 ? ", " : "", names[i]);
    if (strcmp(names[i], provider->listed) == 0) found = true;
  }
  done = cff__ort_check(ort->ReleaseAvailableProviders(names, n_names), "list", "providers");
  if (found) return done;
  return cff__fail(CFF_ERROR_BACKEND,
                   "provider `%s` (%s) must be in the loaded ONNX Runtime, which has %s; choose "
                   "one of these, or load an ONNX Runtime that was built with it",
                   provider->name, provider->listed, list);
}

static const cff__provider *find_provider(const char *name) {
  for (size_t i = 0; i < N_PROVIDERS; i++)
    if (strcmp(providers[i].name, name) == 0) return &providers[i];
  return NULL;
}

static cff_status add_option(cff__arena *arena, cff__choice *choice, const char *line, size_t n) {
  const char *equals = memchr(line, '=', n);
  if (equals == NULL || equals == line)
    return cff__fail(CFF_ERROR_USAGE, "`provider_options` must be lines of key=value, got `%.*s`",
                     (int)(n < 80 ? n : 80), line);
  size_t n_key = (size_t)(equals - line);
  const char *key = cff__arena_text(arena, line, n_key);
  const char *value = cff__arena_text(arena, equals + 1, n - n_key - 1);
  if (key == NULL || value == NULL) return cff__no_memory("provider options", n);
  choice->keys[choice->n_options] = key;
  choice->values[choice->n_options++] = value;
  return CFF_OK;
}

/* device: as text, "" where the provider has none. Given first: a line may say otherwise. */
static cff_status read_options(const char *text, const char *device, cff__arena *arena,
                               cff__choice *choice) {
  size_t n_most = 2;
  char first[40];
  for (const char *at = text; *at != '\0'; at++) n_most += *at == '\n';
  choice->keys = cff__arena_alloc(arena, n_most, sizeof *choice->keys);
  choice->values = cff__arena_alloc(arena, n_most, sizeof *choice->values);
  if (choice->keys == NULL || choice->values == NULL)
    return cff__no_memory("provider options", n_most * sizeof *choice->keys);
  cff_status done = CFF_OK;
  if (device[0] != '\0') {
    snprintf(first, sizeof first, "device_id=%s", device);
    done = add_option(arena, choice, first, strlen(first));
  }
  while (*text != '\0' && done == CFF_OK) {
    size_t n = strcspn(text, "\n");
    if (n > 0) done = add_option(arena, choice, text, n);
    text += n + (text[n] == '\n');
  }
  return done;
}

cff_status cff__provider_choose(const cff_session_options *options, cff__arena *arena,
                                cff__choice *choice) {
  const char *name = options->provider == NULL ? "cpu" : options->provider;
  const char *text = options->provider_options == NULL ? "" : options->provider_options;
  const cff__provider *provider = find_provider(name);
  char device[16] = "";
  if (provider == NULL)
    return cff__fail(CFF_ERROR_USAGE,
                     "`provider` must be one of cpu, cuda, tensorrt, nv-tensorrt-rtx, openvino, "
                     "got `%.80s`",
                     name);
  const bool on_gpu = provider->memory != NULL;
  if (options->device < 0 || (options->device > 0 && !on_gpu))
    return cff__fail(CFF_ERROR_USAGE, "`device` must be %s, got %d",
                     on_gpu ? "the number of a GPU"
                            : "0 with this provider (openvino takes `device_type=...` in "
                              "`provider_options`)",
                     (int)options->device);
  if (provider->is_cpu && text[0] != '\0')
    return cff__fail(CFF_ERROR_USAGE, "`provider_options` must be empty with provider `cpu`");
  if (on_gpu) snprintf(device, sizeof device, "%d", (int)options->device);
  *choice = (cff__choice){provider, options->device, NULL, NULL, 0};
  cff_status done = read_options(text, device, arena, choice);
  return done == CFF_OK ? check_available(provider) : done;
}

cff__choice cff__provider_for_copies(const cff__choice *choice) {
  cff__choice copies = *choice;
  /* TensorRT would build an engine for every shape; wherever it is there is CUDA */
  if (choice->provider == &providers[TENSORRT]) {
    copies.provider = &providers[CUDA];
    copies.n_options = 1; /* the device */
  }
  return copies;
}

static cff_status append_cuda(const cff__choice *choice, OrtSessionOptions *options) {
  const OrtApi *ort = cff__ort();
  OrtCUDAProviderOptionsV2 *settings = NULL;
  OrtStatus *status = ort->CreateCUDAProviderOptions(&settings);
  if (status == NULL)
    status = ort->UpdateCUDAProviderOptions(settings, choice->keys, choice->values,
                                            choice->n_options);
  if (status == NULL)
    status = ort->SessionOptionsAppendExecutionProvider_CUDA_V2(options, settings);
  if (settings != NULL) ort->ReleaseCUDAProviderOptions(settings);
  return cff__ort_check(status, "use provider", choice->provider->name);
}

static cff_status append_tensorrt(const cff__choice *choice, OrtSessionOptions *options) {
  const OrtApi *ort = cff__ort();
  OrtTensorRTProviderOptionsV2 *settings = NULL;
  OrtStatus *status = ort->CreateTensorRTProviderOptions(&settings);
  if (status == NULL)
    status = ort->UpdateTensorRTProviderOptions(settings, choice->keys, choice->values,
                                                choice->n_options);
  if (status == NULL)
    status = ort->SessionOptionsAppendExecutionProvider_TensorRT_V2(options, settings);
  if (settings != NULL) ort->ReleaseTensorRTProviderOptions(settings);
  return cff__ort_check(status, "use provider", choice->provider->name);
}

static cff_status append_generic(const cff__choice *choice, const char *name,
                                 OrtSessionOptions *options) {
  OrtStatus *status = cff__ort()->SessionOptionsAppendExecutionProvider(
      options, name, choice->keys, choice->values, choice->n_options);
  return cff__ort_check(status, "use provider", choice->provider->name);
}

cff_status cff__provider_append(const cff__choice *choice, OrtSessionOptions *options) {
  switch (choice->provider - providers) {
    case CUDA: return append_cuda(choice, options);
    case TENSORRT: return append_tensorrt(choice, options);
    case NV_TENSORRT_RTX: return append_generic(choice, "NvTensorRtRtx", options);
    case OPENVINO: return append_generic(choice, "OpenVINO", options);
    default: return CFF_OK; /* the CPU is always there */
  }
}
