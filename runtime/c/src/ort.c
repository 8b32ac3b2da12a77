#define _POSIX_C_SOURCE 200809L

#include "ort.h"

#include <pthread.h>
#include <stdlib.h>

#include "status.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const OrtApi *api; /* once found it stays */
static OrtEnv *shared_env;
static size_t n_holders;

const OrtApi *cff__ort(void) { return api; }

void ORT_API_CALL cff__ort_log(void *unused, OrtLoggingLevel severity, const char *category,
                               const char *log_id, const char *place, const char *message) {
  (void)unused, (void)severity, (void)category, (void)log_id, (void)place, (void)message;
}

cff_status cff__ort_check(OrtStatus *status, const char *deed, const char *name) {
  if (status == NULL) return CFF_OK;
  cff_status failed =
      cff__fail(CFF_ERROR_BACKEND, "ONNX Runtime could not %s `%.200s`: %.700s", deed, name,
                api->GetErrorMessage(status));
  api->ReleaseStatus(status);
  return failed;
}

/* The version is looked at first: asked for functions that it does not have, the library prints. */
static cff_status find_api(void) {
  const OrtApiBase *base = OrtGetApiBase();
  const char *version = base == NULL ? "none" : base->GetVersionString();
  char *end = NULL;
  long major = strtol(version, &end, 10), minor = 0;
  if (*end == '.') minor = strtol(end + 1, NULL, 10);
  if (base != NULL && (major > 1 || (major == 1 && minor >= ORT_API_VERSION)))
    api = base->GetApi(ORT_API_VERSION);
  if (api != NULL) return CFF_OK;
  return cff__fail(CFF_ERROR_BACKEND,
                   "ONNX Runtime must be 1.%d or later, as libcff was built with, the loaded one "
                   "is %.40s; put the right library first, or build libcff with the older one",
                   ORT_API_VERSION, version);
}

/* One arena for all graphs, which take turns, in steps no larger than needed: each would keep its
 * own, twice as large as it must be. Where the program has such an arena already, that one serves. */
static OrtStatus *share_arena(OrtEnv *env) {
  static const char *const names[] = {"arena_extend_strategy", "initial_chunk_size_bytes"};
  static const size_t values[] = {1, 1 << 16}; /* 1: as much as is asked for */
  OrtMemoryInfo *memory = NULL;
  OrtArenaCfg *config = NULL;
  OrtStatus *status = api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory);
  if (status == NULL) status = api->CreateArenaCfgV2(names, values, 2, &config);
  if (status == NULL) {
    OrtStatus *taken = api->CreateAndRegisterAllocator(env, memory, config);
    if (taken != NULL) api->ReleaseStatus(taken);
  }
  if (config != NULL) api->ReleaseArenaCfg(config);
  if (memory != NULL) api->ReleaseMemoryInfo(memory);
  return status;
}

static cff_status make_env(void) {
  /* ONNX Runtime 1.31 reports usage, by a thread that outlives its environment. This alone keeps it
   * from starting; what the user has set stays. */
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);
  if (api == NULL) {
    cff_status found = find_api();
    if (found != CFF_OK) return found;
  }
  OrtEnv *env = NULL;
  OrtStatus *status =
      api->CreateEnvWithCustomLogger(cff__ort_log, NULL, ORT_LOGGING_LEVEL_ERROR, "cff", &env);
  cff_status done = cff__ort_check(status, "make", "an environment");
  if (done == CFF_OK) done = cff__ort_check(share_arena(env), "make", "an arena");
  if (done == CFF_OK) shared_env = env;
  else if (env != NULL) api->ReleaseEnv(env);
  return done;
}

cff_status cff__ort_acquire(OrtEnv **env) {
  cff_status done = CFF_OK;
  pthread_mutex_lock(&lock);
  if (n_holders == 0) done = make_env();
  if (done == CFF_OK) {
    n_holders++;
    *env = shared_env;
  }
  pthread_mutex_unlock(&lock);
  return done;
}

void cff__ort_release(void) {
  pthread_mutex_lock(&lock);
  if (--n_holders == 0) {
    api->ReleaseEnv(shared_env);
    shared_env = NULL;
  }
  pthread_mutex_unlock(&lock);
}
