// Holds the block of block.hpp to the goldens: g++ -std=c++17 -O1 -ffp-contract=off check.cpp -o check && ./check golden/v1
#include <cstdio>

#include "block.hpp"
#include "safetensors.hpp"

using Arrays = std::map<std::string, Array>;
template <class T> Numbers<T> as(const Array& a) { return Numbers<T>(a.data.begin(), a.data.end()); }

// How many of the vector's numbers are off by more than is allowed, in the floating type T, number `which` of .error.
template <class T> int wrong(const Json& vector, const Arrays& arrays, int which) {
    auto get = [&](const std::string& name) -> const Array& { return arrays.at(vector["id"].text + "/" + name); };
    const Json& s = vector["spec"];
    const Array& x = get("x");
    std::size_t B = x.shape.at(0), C = x.shape.at(1), N = 1;
    for (std::size_t i = 2; i < x.shape.size(); ++i) N *= x.shape[i];
    const Spec spec{C, N, s["dialect"].text, s["global_affine_type"].text, s["affine_clamping"].number(),
                    s["gin_block"].truth(), s["reverse_permutation"].truth()};
    const bool plain = arrays.count(vector["id"].text + "/state.w_perm");
    const State<T> state{as<T>(get("state.global_scale")), as<T>(get("state.global_offset")),
                         as<T>(get(plain ? "state.w_perm" : "state.w_0")),
                         plain ? Numbers<T>() : as<T>(get("state.vk_householder"))};
    int bad = 0;
    for (const std::string direction : {"forward", "reverse"})
        for (std::size_t b = 0; b < B; ++b) {
            const Numbers<T> sample(x.data.begin() + b * C * N, x.data.begin() + (b + 1) * C * N);
            const Array& a = get("state.subnet.a");  // given: the answer stands in the file
            const std::size_t size = a.data.size() / B;
            auto answer = [&](auto&&) { return Numbers<T>(&a.data[b * size], &a.data[b * size] + size); };
            Numbers<T> out;
            const T logdet = run<T>(spec, state, answer, sample, direction == "reverse", out);
            auto off = [&](const std::string& name, std::size_t at, double got) {
                const Array &want = get(direction + name), &error = get(direction + name + ".error");
                return !(std::fabs(got - want.data.at(at)) <= error.data.at(which * want.data.size() + at));
            };
            for (std::size_t n = 0; n < C * N; ++n) bad += off(".out", b * C * N + n, out[n]);
            bad += off(".logdet", b, logdet);
        }
    return bad;
}

int main(int argc, char** argv) try {
    const std::string folder = argc > 1 ? argv[1] : "golden/v1", text = bytes_of(folder + "/manifest.json");
    const Json manifest = JsonReader(text).value();
    std::map<std::string, Arrays> files;
    for (const auto& [name, file] : manifest["files"].fields) files[name] = load_safetensors(folder + "/" + name);
    int checked = 0, bad = 0;
    for (const Json& vector : manifest["vectors"].items) {
        if (vector["subnet"].text != "given") continue;  // the others need a subnet
        const Arrays& arrays = files.at(vector["file"].text);
        const int off = wrong<float>(vector, arrays, 0) + wrong<double>(vector, arrays, 1);
        if (off) std::printf("%s: %d numbers off by more than is allowed\n", vector["id"].text.c_str(), off);
        ++checked, bad += off > 0;
    }
    std::printf("%d vectors checked, %d wrong\n", checked, bad);
    return bad || !checked;
} catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
}
