/* The settings of a profile: how its threshold is set again when references change. */
#ifndef CFF__SETTINGS_H
#define CFF__SETTINGS_H

#include "cff.h"
#include "enrolment.h"
#include "profile.h"

/* Write the settings of a new profile. */
cff_status cff__settings_write(const cff__recipe *recipe, cff_profile *profile);

/* Read the settings of a profile, which either runtime wrote. */
cff_status cff__settings_read(const cff_profile *profile, cff__recipe *recipe);

#endif
