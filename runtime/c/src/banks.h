/* Memory banks where the scorers take them; see session.h. */
#ifndef CFF__BANKS_H
#define CFF__BANKS_H

#include "cff.h"
#include "ort.h"
#include "session.h"

struct cff__banks {
  OrtValue **chunks[CFF__MAX_STAGES]; /* each [m,C_s] */
  size_t n_chunks[CFF__MAX_STAGES];
};

/* A profile's banks: with a GPU kept from call to call, else made around the profile's rows. */
cff_status cff__banks_take(cff_session *session, const cff_profile *profile, cff__banks **banks);
void cff__banks_give(cff_session *session, cff__banks *banks);

/* Nobody uses them any more. */
void cff__kept_banks_free(cff_session *session);

#endif
