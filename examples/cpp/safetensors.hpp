// Reads a manifest and safetensors files of float64 arrays; every size is checked before it is used. C++17, no more.
#pragma once
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

struct Json {  // a value; text holds the characters of a number, a word or a string
    enum Kind { word, string, array, object } kind = word;
    std::string text;
    std::vector<Json> items;
    std::map<std::string, Json> fields;
    const Json& operator[](const std::string& name) const {
        auto found = fields.find(name);
        if (found == fields.end()) throw std::runtime_error("there is no field \"" + name + "\"");
        return found->second;
    }
    double number() const { return std::stod(text); }
    bool truth() const { return text == "true"; }
    std::uint64_t count() const {
        if (kind != word || text.empty() || text.size() > 18 || text.find_first_not_of("0123456789") != text.npos)
            throw std::runtime_error("\"" + text + "\" is no count");
        return std::stoull(text);
    }
};

class JsonReader {
    const std::string& s;
    std::size_t at = 0;
    char peek() {
        while (at < s.size() && std::strchr(" \t\r\n", s[at])) ++at;
        if (at >= s.size()) throw std::runtime_error("the JSON text ends too early");
        return s[at];
    }
    void take(char c) {
        if (peek() != c) throw std::runtime_error(std::string("expected ") + c + " at " + std::to_string(at));
        ++at;
    }
    std::string quoted() {
        std::string out;
        for (take('"'); at < s.size() && s[at] != '"'; ++at) {
            if (s[at] == '\\' && ++at >= s.size()) break;
            out += s[at];  // an escaped character stands for itself: names and ids need no more
        }
        take('"');
        return out;
    }

  public:
    explicit JsonReader(const std::string& text) : s(text) {}
    Json value(int depth = 0) {
        if (depth > 32) throw std::runtime_error("the JSON text is nested too deeply");
        Json out;
        if (peek() == '"') {
            out.kind = Json::string;
            out.text = quoted();
        } else if (peek() == '[' || peek() == '{') {
            const char close = s[at] == '[' ? ']' : '}';
            out.kind = close == ']' ? Json::array : Json::object;
            for (++at; peek() != close;) {
                if (close == ']') out.items.push_back(value(depth + 1));
                else { std::string name = quoted(); take(':'); out.fields[name] = value(depth + 1); }
                if (peek() != close) take(',');
            }
            ++at;
        } else {
            while (at < s.size() && !std::strchr(",]} \t\r\n", s[at])) out.text += s[at++];
        }
        return out;
    }
};

inline std::string bytes_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + " can't be opened");
    return std::string(std::istreambuf_iterator<char>(file), {});
}

struct Array {
    std::vector<std::size_t> shape;
    std::vector<double> data;
};

inline std::map<std::string, Array> load_safetensors(const std::string& path) try {
    const std::string file = bytes_of(path);
    std::uint64_t n = 0;
    if (file.size() < 8) throw std::runtime_error("the file is too short");
    for (int i = 7; i >= 0; --i) n = n << 8 | static_cast<unsigned char>(file[i]);
    if (n > file.size() - 8) throw std::runtime_error("its header is longer than the file");
    const std::uint64_t room = file.size() - 8 - n;
    const std::string text = file.substr(8, n);
    std::map<std::string, Array> out;
    const Json header = JsonReader(text).value();
    for (const auto& [name, entry] : header.fields) {
        if (name == "__metadata__") continue;
        if (entry["dtype"].text != "F64") throw std::runtime_error(name + " is not of float64");
        if (entry["data_offsets"].items.size() != 2) throw std::runtime_error(name + " has no two offsets");
        const std::uint64_t begin = entry["data_offsets"].items[0].count(), end = entry["data_offsets"].items[1].count();
        if (begin > end || end > room) throw std::runtime_error(name + " lies outside the file");
        Array array;
        std::uint64_t numbers = 1;
        for (const Json& axis : entry["shape"].items) {
            const std::uint64_t size = axis.count();
            if (size && numbers > (room / 8 + 1) / size) throw std::runtime_error(name + " is larger than the file");
            numbers *= size;
            array.shape.push_back(size);
        }
        if (numbers * 8 != end - begin) throw std::runtime_error(name + ": shape and offsets disagree");
        array.data.resize(numbers);
        if (numbers) std::memcpy(array.data.data(), file.data() + 8 + n + begin, numbers * 8);  // little-endian machines
        out[name] = std::move(array);
    }
    return out;
} catch (const std::exception& error) {
    throw std::runtime_error(path + ": " + error.what());
}
