/* Opens a session and inspects an image again and again, each time with another call failing: on
 * memory, on threads, on ONNX Runtime. Linked with --wrap for malloc, calloc, realloc, realpath,
 * pthread_create and cff__ort, and run under a sanitizer that finds leaks.
 *
 *     failing_sessions BUNDLE PROFILE PROVIDER open|inspect
 *
 * Exit status: 0 if every failure was told, and prints how many there were. */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bundle.h"
#include "ort.h"

typedef enum kind { MEMORY, THREADS, GRAPHS, N_KINDS } kind;

static const char *const kind_names[N_KINDS] = {"memory", "threads", "graphs"};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static kind chosen = N_KINDS;
static int n_left = -1;

static bool fails(kind one) {
  pthread_mutex_lock(&lock);
  bool now = one == chosen && n_left >= 0 && n_left-- == 0;
  pthread_mutex_unlock(&lock);
  return now;
}

#define WRAP(type, name, parameters, arguments, kind, cause, failure)      \
  type __real_##name parameters;                                           \
  type __wrap_##name parameters;                                           \
  type __wrap_##name parameters {                                          \
    if (!fails(kind)) return __real_##name arguments;                      \
    errno = cause;                                                         \
    return failure;                                                        \
  }

WRAP(void *, malloc, (size_t n), (n), MEMORY, ENOMEM, NULL)
WRAP(void *, calloc, (size_t n, size_t m), (n, m), MEMORY, ENOMEM, NULL)
WRAP(void *, realloc, (void *old, size_t n), (old, n), MEMORY, ENOMEM, NULL)
WRAP(char *, realpath, (const char *path, char *out), (path, out), MEMORY, ENOMEM, NULL)
WRAP(int, pthread_create,
     (pthread_t *thread, const pthread_attr_t *how, void *(*run)(void *), void *what),
     (thread, how, run, what), THREADS, 0, EAGAIN)

static const OrtApi *ort; /* as it is */

static OrtStatus *made_to_fail(void) { return ort->CreateStatus(ORT_FAIL, "made to fail"); }

#define FAIL_ORT(name, parameters, arguments)                                     \
  static OrtStatus *ORT_API_CALL fail_##name parameters {                         \
    return fails(GRAPHS) ? made_to_fail() : ort->name arguments;                  \
  }

FAIL_ORT(CreateSessionOptions, (OrtSessionOptions * *out), (out))
FAIL_ORT(SetIntraOpNumThreads, (OrtSessionOptions * options, int n), (options, n))
FAIL_ORT(CreateSession,
         (const OrtEnv *env, const ORTCHAR_T *path, const OrtSessionOptions *options,
          OrtSession **out),
         (env, path, options, out))
FAIL_ORT(CreateSessionFromArray,
         (const OrtEnv *env, const void *data, size_t n, const OrtSessionOptions *options,
          OrtSession **out),
         (env, data, n, options, out))
FAIL_ORT(GetAvailableProviders, (char ***names, int *n), (names, n))
FAIL_ORT(SessionGetInputCount, (const OrtSession *session, size_t *n), (session, n))
FAIL_ORT(SessionGetInputName,
         (const OrtSession *session, size_t i, OrtAllocator *allocator, char **name),
         (session, i, allocator, name))
FAIL_ORT(SessionGetOutputTypeInfo, (const OrtSession *session, size_t i, OrtTypeInfo **type),
         (session, i, type))
FAIL_ORT(GetDimensions, (const OrtTensorTypeAndShapeInfo *info, int64_t *shape, size_t n),
         (info, shape, n))
FAIL_ORT(CreateCpuMemoryInfo,
         (enum OrtAllocatorType kind, enum OrtMemType type, OrtMemoryInfo **out),
         (kind, type, out))
FAIL_ORT(CreateAllocator,
         (const OrtSession *session, const OrtMemoryInfo *info, OrtAllocator **out),
         (session, info, out))
FAIL_ORT(CreateTensorWithDataAsOrtValue,
         (const OrtMemoryInfo *info, void *data, size_t n, const int64_t *shape, size_t rank,
          ONNXTensorElementDataType type, OrtValue **out),
         (info, data, n, shape, rank, type, out))
FAIL_ORT(CreateTensorAsOrtValue,
         (OrtAllocator * allocator, const int64_t *shape, size_t rank,
          ONNXTensorElementDataType type, OrtValue **out),
         (allocator, shape, rank, type, out))
FAIL_ORT(GetTensorMutableData, (OrtValue * value, void **data), (value, data))
FAIL_ORT(Run,
         (OrtSession * session, const OrtRunOptions *options, const char *const *names,
          const OrtValue *const *inputs, size_t n, const char *const *output_names, size_t n_out,
          OrtValue **outputs),
         (session, options, names, inputs, n, output_names, n_out, outputs))

const OrtApi *__real_cff__ort(void);
const OrtApi *__wrap_cff__ort(void);
const OrtApi *__wrap_cff__ort(void) {
  static OrtApi table;
  pthread_mutex_lock(&lock);
  if (ort == NULL) {
    ort = __real_cff__ort();
    table = *ort;
    table.CreateSessionOptions = fail_CreateSessionOptions;
    table.SetIntraOpNumThreads = fail_SetIntraOpNumThreads;
    table.CreateSession = fail_CreateSession;
    table.CreateSessionFromArray = fail_CreateSessionFromArray;
    table.GetAvailableProviders = fail_GetAvailableProviders;
    table.SessionGetInputCount = fail_SessionGetInputCount;
    table.SessionGetInputName = fail_SessionGetInputName;
    table.SessionGetOutputTypeInfo = fail_SessionGetOutputTypeInfo;
    table.GetDimensions = fail_GetDimensions;
    table.CreateCpuMemoryInfo = fail_CreateCpuMemoryInfo;
    table.CreateAllocator = fail_CreateAllocator;
    table.CreateTensorWithDataAsOrtValue = fail_CreateTensorWithDataAsOrtValue;
    table.CreateTensorAsOrtValue = fail_CreateTensorAsOrtValue;
    table.GetTensorMutableData = fail_GetTensorMutableData;
    table.Run = fail_Run;
  }
  pthread_mutex_unlock(&lock);
  return &table;
}

static uint8_t pixels[96 * 96 * 3];

static cff_status inspect(cff_session *session, const cff_profile *profile) {
  const cff_image image = {pixels, 96, 96, 96 * 3, CFF_PIXEL_RGB};
  cff_result *result = NULL;
  char text[4000];
  cff_status done = cff_session_inspect(session, profile, &image, &result);
  if (done != CFF_OK && result != NULL) return CFF_OK; /* wrong, and told as such */
  if (done == CFF_OK)
    done = cff_result_get_text(result, CFF_RESULT_JSON, text, sizeof text, NULL);
  cff_result_free(result);
  return done;
}

static cff_status open_session(const cff_bundle *bundle, const char *provider,
                               cff_session **session) {
  cff_session_options options;
  cff_status done = cff_session_options_init(&options, sizeof options);
  options.provider = provider;
  options.n_threads = 3;
  return done == CFF_OK ? cff_session_open(bundle, &options, session) : done;
}

static void start_failing(kind one, int n) {
  chosen = one;
  n_left = n;
}

/* Whether a call did fail. */
static bool stop_failing(void) {
  pthread_mutex_lock(&lock);
  const bool failed = n_left < 0;
  n_left = -1;
  pthread_mutex_unlock(&lock);
  return failed;
}

/* What comes of a try: an error was told, no call failed, or something is wrong. */
typedef enum outcome { TOLD, ENDED, WRONG } outcome;

static outcome outcome_of(bool failed, cff_status done, kind one, int n) {
  if (!failed && done == CFF_OK) return ENDED;
  if (failed && done != CFF_OK && cff_last_error()[0] != '\0') return TOLD;
  fprintf(stderr, "%s %d: %s: %s\n", kind_names[one], n, cff_status_str(done), cff_last_error());
  return WRONG;
}

/* Open a session with the n-th call of a kind failing. */
static outcome try_open(const cff_bundle *bundle, const char *provider, kind one, int n) {
  cff_session *session = NULL;
  start_failing(one, n);
  cff_status done = open_session(bundle, provider, &session);
  const outcome came = outcome_of(stop_failing(), done, one, n);
  const bool is_right = (session != NULL) == (done == CFF_OK);
  cff_session_free(session);
  return is_right ? came : WRONG;
}

/* Inspect likewise; the session goes on as if nothing had been. */
static outcome try_inspect(cff_session *session, const cff_profile *profile, kind one, int n) {
  if (cff_session_forget(session, profile) != CFF_OK) return WRONG;
  start_failing(one, n);
  cff_status done = inspect(session, profile);
  const outcome came = outcome_of(stop_failing(), done, one, n);
  return inspect(session, profile) == CFF_OK ? came : WRONG;
}

int main(int argc, char **argv) {
  cff_bundle *bundle = NULL;
  cff_profile *profile = NULL;
  cff_session *session = NULL;
  outcome came = ENDED;
  for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)(i * 2654435761u >> 16);
  if (argc != 5 || cff_bundle_open(argv[1], NULL, &bundle) != CFF_OK ||
      cff_profile_load(argv[2], &profile) != CFF_OK ||
      open_session(bundle, argv[3], &session) != CFF_OK) {
    fprintf(stderr, "%s\n", cff_last_error());
    return 2;
  }
  const bool opens = strcmp(argv[4], "open") == 0;
  for (kind one = MEMORY; one < N_KINDS && came == ENDED; one++) {
    int n = 0;
    do came = opens ? try_open(bundle, argv[3], one, n) : try_inspect(session, profile, one, n);
    while (came == TOLD && ++n > 0);
    printf("%s %d\n", kind_names[one], n);
  }
  cff_session_free(session);
  cff_profile_free(profile);
  cff_bundle_free(bundle);
  return came == ENDED ? 0 : 1;
}
