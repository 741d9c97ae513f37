// The block in C++17, forward and reverse, in any floating type: what a port looks like. Letters as in docs/block.md.
#pragma once
#include <cmath>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

template <class T> using Numbers = std::vector<T>;

struct Spec {
    std::size_t C, N;  // channels, pixels
    std::string dialect, affine;
    double alpha;
    bool gin, reverse_permutation;
};

template <class T> struct State {
    Numbers<T> s, o, W, vk;  // global_scale, global_offset (C), w_perm or w_0 (C, C), vk_householder (n, C)
};

// W; with reflections W0 H1 ... Hn, documented H1 ... Hn W0.
template <class T> Numbers<T> matrix(const Spec& spec, const State<T>& state) {
    const std::size_t C = spec.C, n = state.vk.size() / C;
    if (!n) return state.W;
    const bool documented = spec.dialect == "documented";
    Numbers<T> W = state.W;
    for (std::size_t k = 0; k < n; ++k) {
        const T* v = &state.vk[(documented ? n - 1 - k : k) * C];
        T vv = 0;
        for (std::size_t j = 0; j < C; ++j) vv += v[j] * v[j];
        for (std::size_t i = 0; i < C; ++i) {  // from the right along rows, from the left along columns
            T dot = 0;
            for (std::size_t j = 0; j < C; ++j) dot += W[documented ? j * C + i : i * C + j] * v[j];
            for (std::size_t j = 0; j < C; ++j) W[documented ? j * C + i : i * C + j] -= 2 * dot * v[j] / vv;
        }
    }
    return W;
}

// One sample: x (C, N) in, (C, N) out; the log-det comes back. answer(p): the subnet's answer (2A, N) to (P, N).
template <class T>
T run(const Spec& spec, const State<T>& state, const std::function<Numbers<T>(const Numbers<T>&)>& answer,
      const Numbers<T>& x, bool rev, Numbers<T>& out) {
    const std::size_t C = spec.C, N = spec.N, A = C / 2, P = C - A;
    const bool documented = spec.dialect == "documented", main = spec.dialect == "freia-main";
    const Numbers<T> W = matrix(spec, state);
    const T alpha = T(spec.alpha), ten = documented ? T(1) : T(10);
    auto mix = [&](const Numbers<T>& v, bool inverse) {
        Numbers<T> y(C * N, T(0));
        for (std::size_t i = 0; i < C; ++i)
            for (std::size_t j = 0; j < C; ++j)
                for (std::size_t n = 0; n < N; ++n) y[i * N + n] += W[inverse ? j * C + i : i * C + j] * v[j * N + n];
        return y;
    };
    Numbers<T> sigma(C, T(1));
    T logs = 0;
    for (std::size_t i = 0; i < C && !spec.gin; ++i) {
        const T s = state.s[i], half = s / 2;
        sigma[i] = spec.affine == "SIGMOID" ? 10 / (1 + std::exp(2 - s))
                   : spec.affine == "EXP"   ? std::exp(s)
                                            : (std::fmax(half, T(0)) + std::log1p(std::exp(-std::fabs(half)))) / 5;
        logs += std::log(sigma[i]);
    }
    Numbers<T> z = x;
    auto each = [&](Numbers<T>& v, auto f) {
        for (std::size_t i = 0; i < C; ++i)
            for (std::size_t n = 0; n < N; ++n) v[i * N + n] = f(v[i * N + n], i);
    };
    if (rev) {
        if (documented) each(z, [&](T v, std::size_t i) { return v - state.o[i]; });
        z = mix(z, true);
        each(z, [&](T v, std::size_t i) { return (documented ? v : v - state.o[i]) / sigma[i]; });
    } else if (spec.reverse_permutation) {
        z = mix(z, true);
    }
    const std::size_t passive = documented ? A * N : 0, active = documented ? 0 : P * N;
    const Numbers<T> a = answer(Numbers<T>(z.begin() + passive, z.begin() + passive + P * N));
    Numbers<T> l(A * N);
    T mean = 0, logdet = 0;
    for (std::size_t n = 0; n < A * N; ++n) {
        const T k = a[n] / ten;
        l[n] = alpha * std::tanh(main ? k / alpha : k);
        mean += l[n];
    }
    mean = spec.gin && A ? mean / T(A * N) : T(0);
    for (std::size_t n = 0; n < A * N; ++n) {
        const T e = l[n] - mean, t = a[A * N + n] / ten;
        T& q = z[active + n];
        q = rev ? (q - t) * std::exp(-e) : q * std::exp(e) + t;
        logdet += e;
    }
    logdet = spec.gin ? T(0) : logdet + T(N) * logs;
    out = z;
    if (rev) {
        if (spec.reverse_permutation) out = mix(out, false);
        return -logdet;
    }
    each(out, [&](T v, std::size_t i) { return documented ? sigma[i] * v : sigma[i] * v + state.o[i]; });
    out = mix(out, false);
    if (documented) each(out, [&](T v, std::size_t i) { return v + state.o[i]; });
    return logdet;
}
