/* ONNX Runtime: its functions, one environment for the whole process, its errors. */
#ifndef CFF__ORT_H
#define CFF__ORT_H

#include <onnxruntime_c_api.h>

#include "cff.h"

/* Hold the process's environment; every success is given back by one cff__ort_release. */
cff_status cff__ort_acquire(OrtEnv **env);
void cff__ort_release(void);

/* The functions; only while an environment is held. */
const OrtApi *cff__ort(void);

/* CFF_OK if status is NULL. Else the status is released, and CFF_ERROR_BACKEND tells that ONNX
 * Runtime could not do `deed` (such as "run") to `name`. */
cff_status cff__ort_check(OrtStatus *status, const char *deed, const char *name);

/* Takes what ONNX Runtime would log and drops it: errors come back as statuses. */
void ORT_API_CALL cff__ort_log(void *unused, OrtLoggingLevel severity, const char *category,
                               const char *log_id, const char *place, const char *message);

#endif
