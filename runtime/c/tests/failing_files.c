/* Let every allocation and every call on a file fail once, one after the other, while bundles and
 * profiles are read and written: each call must say so, leave nothing behind and the old file as
 * it was. Built with the address sanitizer, which tells what memory was left.
 *
 *     failing_files BUNDLE PROFILE FOLDER
 *
 * Exit status: 0 if all is well, else a sentence on stderr. */
#define _XOPEN_SOURCE 700

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cff.h"
#include "failing_calls.h"

static const char *bundle_path, *profile_path;
static char target[4096];
static const char old[] = "what stood here before";

static int stop(const char *what, const char *call, int n) {
  fprintf(stderr, "%s, with call %d of %s failing: %s\n", what, n, call, cff_last_error());
  return 1;
}

static cff_status open_bundle(void) {
  char text[4096];
  cff_bundle *bundle = NULL;
  cff_status status = cff_bundle_open(bundle_path, NULL, &bundle);
  if ((bundle != NULL) != (status == CFF_OK)) abort();
  for (int which = CFF_BUNDLE_ID; which <= CFF_BUNDLE_DISTANCE && status == CFF_OK; which++)
    status = cff_bundle_get_text(bundle, (cff_bundle_text)which, text, sizeof text, NULL);
  cff_bundle_free(bundle);
  return status;
}

static cff_status refuse_precision(void) {
  cff_bundle *bundle = NULL;
  cff_status status = cff_bundle_open(bundle_path, "none such", &bundle);
  if (bundle != NULL) abort();
  return status == CFF_ERROR_USAGE ? CFF_OK : status; /* refused for the right reason */
}

static cff_status load_profile(void) {
  cff_profile *profile = NULL;
  cff_status status = cff_profile_load(profile_path, &profile);
  if ((profile != NULL) != (status == CFF_OK)) abort();
  cff_profile_free(profile);
  return status;
}

static cff_profile *profile; /* loaded once, where nothing fails */
static cff_bundle *bundle;

static cff_status get_facts(void) {
  static char text[1 << 16];
  return cff_profile_get_text(profile, CFF_PROFILE_FACTS, text, sizeof text, NULL);
}

static cff_status check_profile(void) {
  cff_status status = cff_profile_check(profile, bundle);
  return status == CFF_ERROR_MISMATCH ? CFF_OK : status; /* it may be of another bundle */
}

static cff_status save_profile(void) { return cff_profile_save(profile, target); }

static bool put_old(void) {
  FILE *file = fopen(target, "wb");
  if (file == NULL) return false;
  bool written = fwrite(old, 1, sizeof old, file) == sizeof old;
  return fclose(file) == 0 && written;
}

/* Nothing but the file, and that as it was. */
static bool old_stands(const char *folder) {
  char found[sizeof old + 1];
  int n_entries = 0;
  FILE *file = fopen(target, "rb");
  if (file == NULL) return false;
  bool same = fread(found, 1, sizeof found, file) == sizeof old;
  same = same && memcmp(found, old, sizeof old) == 0;
  fclose(file);
  DIR *listing = opendir(folder);
  while (listing != NULL && readdir(listing) != NULL) n_entries++;
  if (listing != NULL) closedir(listing);
  return same && n_entries == 3; /* with . and .. */
}

/* Statuses that a failing call may lead to. */
static bool is_expected(cff_status status, failing_call call, bool writes) {
  if (call == FAIL_MEMORY) return status == CFF_ERROR_MEMORY;
  if (writes) return status == CFF_ERROR_STORAGE;
  return status == CFF_ERROR_BUNDLE || status == CFF_ERROR_PROFILE || status == CFF_ERROR_USAGE;
}

static int try_all(const char *what, cff_status (*act)(void), const char *folder,
                   const failing_call *calls, size_t n_calls) {
  for (size_t i = 0; i < n_calls; i++) {
    for (int n = 0;; n++) {
      if (folder != NULL && !put_old()) return stop("no room for the test", what, n);
      failing_start(calls[i], n);
      const cff_status status = act();
      const bool failed = failing_stop();
      const char *name = failing_name(calls[i]);
      if (!failed && status != CFF_OK) return stop(what, name, n);
      if (!failed) break;
      if (n > 5000) return stop("no end", name, n);
      /* closing a file that was read may fail without harm */
      if (status == CFF_OK && calls[i] == FAIL_CLOSE && folder == NULL)
        continue;
      if (!is_expected(status, calls[i], folder != NULL)) return stop(what, name, n);
      if (cff_last_error()[0] == '\0') return stop("no sentence", name, n);
      if (folder != NULL && !old_stands(folder)) return stop("something was left", name, n);
    }
  }
  return 0;
}

int main(int n_arguments, char **arguments) {
  static const failing_call reads[] = {FAIL_MEMORY, FAIL_OPEN, FAIL_STAT, FAIL_READ, FAIL_SEEK,
                                       FAIL_CLOSE};
  static const failing_call writes[] = {FAIL_MEMORY, FAIL_OPEN, FAIL_WRITE, FAIL_FLUSH,
                                        FAIL_SYNC,   FAIL_CLOSE, FAIL_RENAME};
  static const failing_call memory[] = {FAIL_MEMORY};
  if (n_arguments != 4) return 2;
  bundle_path = arguments[1];
  profile_path = arguments[2];
  const char *folder = arguments[3];
  snprintf(target, sizeof target, "%s/target", folder);
  if (cff_profile_load(profile_path, &profile) != CFF_OK) return stop("load", "none", 0);
  if (cff_bundle_open(bundle_path, NULL, &bundle) != CFF_OK) return stop("open", "none", 0);
  int failed = try_all("cff_bundle_open", open_bundle, NULL, reads, sizeof reads / sizeof *reads);
  if (!failed) failed = try_all("precision", refuse_precision, NULL, memory, 1);
  if (!failed)
    failed = try_all("cff_profile_load", load_profile, NULL, reads, sizeof reads / sizeof *reads);
  if (!failed) failed = try_all("facts", get_facts, NULL, memory, 1);
  if (!failed) failed = try_all("cff_profile_check", check_profile, NULL, memory, 1);
  if (!failed)
    failed = try_all("cff_profile_save", save_profile, folder, writes,
                     sizeof writes / sizeof *writes);
  cff_profile_free(profile);
  cff_bundle_free(bundle);
  return failed;
}
