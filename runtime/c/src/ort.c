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

static cff_status make_env(void) {
  if (api == NULL) {
    cff_status found = find_api();
    if (found != CFF_OK) return found;
  }
  OrtEnv *env = NULL;
  OrtStatus *status =
      api->CreateEnvWithCustomLogger(cff__ort_log, NULL, ORT_LOGGING_LEVEL_ERROR, "cff", &env);
  cff_status done = cff__ort_check(status, "make", "an environment");
  if (done != CFF_OK) return done;
  /* nothing about use is sent anywhere; where it cannot be, there is nothing to stop */
  status = api->DisableTelemetryEvents(env);
  if (status != NULL) api->ReleaseStatus(status);
  shared_env = env;
  return CFF_OK;
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
