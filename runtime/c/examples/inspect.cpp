// Inspect images from C++17. The part between the lines is made to be lifted into your program.
//
//     inspect bottle.bundle bottle.safetensors part_1.png part_2.png ...

// ---- cff.hpp -----------------------------------------------------------------------------------
#include <cff.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace cff {

struct Error : std::runtime_error {
  explicit Error(cff_status which) : std::runtime_error(cff_last_error()), status(which) {}
  cff_status status;
};

inline void check(cff_status status) {
  if (status != CFF_OK) throw Error(status);
}

struct Free {
  void operator()(cff_bundle *handle) const { cff_bundle_free(handle); }
  void operator()(cff_profile *handle) const { cff_profile_free(handle); }
  void operator()(cff_session *handle) const { cff_session_free(handle); }
  void operator()(cff_result *handle) const { cff_result_free(handle); }
};

template <class Handle> using Owned = std::unique_ptr<Handle, Free>;

// One of cff_..._get_text as a string: text(cff_result_get_text, result, CFF_RESULT_JSON).
template <class Handle, class Which>
std::string text(cff_status (*get)(const Handle *, Which, char *, size_t, size_t *),
                 const Handle *handle, Which which) {
  size_t n_bytes = 0;
  check(get(handle, which, nullptr, 0, &n_bytes));
  std::string text(n_bytes, '\0');
  check(get(handle, which, text.data(), n_bytes, nullptr));
  text.pop_back(); // the NUL
  return text;
}

class Result {
 public:
  explicit Result(Owned<cff_result> handle) : handle_(std::move(handle)) {
    info.struct_size = sizeof info;
    check(cff_result_get_info(handle_.get(), &info));
  }

  // Row by row, info.height x info.width.
  std::vector<float> map() const {
    std::vector<float> values(static_cast<size_t>(info.height) * info.width);
    check(cff_result_get_map(handle_.get(), values.data(), values.size()));
    return values;
  }

  // Strongest first.
  std::vector<cff_region> regions() const {
    std::vector<cff_region> found(static_cast<size_t>(info.n_regions));
    for (size_t i = 0; i < found.size(); i++) {
      found[i].struct_size = sizeof found[i];
      check(cff_result_get_region(handle_.get(), i, &found[i]));
    }
    return found;
  }

  std::string json() const { return text(cff_result_get_text, handle_.get(), CFF_RESULT_JSON); }

  cff_result_info info{};

 private:
  Owned<cff_result> handle_;
};

// A bundle and its session. May be used by many threads at once.
class Inspector {
 public:
  explicit Inspector(const std::string &bundle, const std::string &precision = "fp32",
                     const cff_session_options *options = nullptr) {
    cff_bundle *opened = nullptr;
    check(cff_bundle_open(bundle.c_str(), precision.c_str(), &opened));
    bundle_.reset(opened);
    cff_session *session = nullptr;
    check(cff_session_open(opened, options, &session));
    session_.reset(session);
  }

  Result inspect(const cff_profile *profile, const cff_image &image) const {
    cff_result *result = nullptr;
    check(cff_session_inspect(session_.get(), profile, &image, &result));
    return Result(Owned<cff_result>(result));
  }

 private:
  Owned<cff_bundle> bundle_; // first, as it must outlive the session
  Owned<cff_session> session_;
};

inline Owned<cff_profile> load_profile(const std::string &path) {
  cff_profile *profile = nullptr;
  check(cff_profile_load(path.c_str(), &profile));
  return Owned<cff_profile>(profile);
}

} // namespace cff
// ------------------------------------------------------------------------------------------------

#include <cstdio>
#include <exception>

#include "read_image.h"

static void inspect(const cff::Inspector &inspector, const cff_profile *profile, const char *path) {
  static const char *const verdicts[] = {"pass", "review", "reject"};
  char reason[REASON_BYTES];
  cff_image image;
  if (!read_image(path, &image, reason)) throw std::runtime_error(reason);
  std::unique_ptr<cff_image, void (*)(cff_image *)> pixels(&image, free_image);
  const cff::Result result = inspector.inspect(profile, image);
  std::printf("%-6s  %8.4f  %s\n", verdicts[result.info.verdict], result.info.score, path);
  for (const cff_region &region : result.regions()) {
    std::printf("        at %lld, %lld: %lld x %lld px, peak %.4f\n", (long long)region.x,
                (long long)region.y, (long long)region.width, (long long)region.height,
                region.peak);
  }
}

int main(int argc, char **argv) {
  if (argc < 4) {
    std::fputs("usage: inspect BUNDLE PROFILE IMAGE...\n", stderr);
    return 2;
  }
  try {
    const auto profile = cff::load_profile(argv[2]);
    const cff::Inspector inspector(
        argv[1], cff::text(cff_profile_get_text, profile.get(), CFF_PROFILE_PRECISION));
    for (int i = 3; i < argc; i++) inspect(inspector, profile.get(), argv[i]);
  } catch (const cff::Error &error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return error.status == CFF_ERROR_USAGE ? 2 : 1;
  } catch (const std::exception &error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
  return 0;
}
