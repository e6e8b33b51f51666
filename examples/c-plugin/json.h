// Reads JSON in place, bounded, without memory of its own. A document is looked through once, whole; then fields are found by name.
#pragma once

#include <stdint.h>
#include <string.h>

// Deeper than any host writes.
#define JSON_DEEPEST 32

// A part of a document.
struct json {
  const char *at;
  const char *end;
};

static inline void json_space(struct json *in) {
  while (in->at < in->end && strchr(" \t\r\n", *in->at) != NULL && *in->at != '\0')
    in->at++;
}

static inline int json_take(struct json *in, char wanted) {
  json_space(in);
  if (in->at == in->end || *in->at != wanted)
    return 0;
  in->at++;
  return 1;
}

// Goes past a string; `out` is what stands between the quotes, escapes as they are.
static inline int json_string(struct json *in, struct json *out) {
  if (!json_take(in, '"'))
    return 0;
  out->at = in->at;
  for (; in->at < in->end; in->at++) {
    if ((unsigned char)*in->at < 0x20)
      return 0;
    if (*in->at == '"') {
      out->end = in->at++;
      return 1;
    }
    // What is escaped, a quote perhaps, belongs to the string.
    if (*in->at == '\\' && ++in->at == in->end)
      return 0;
  }
  return 0;
}

// Goes past any value; `out` is its text.
static inline int json_value(struct json *in, struct json *out, int deep) {
  struct json part;
  json_space(in);
  out->at = in->at;
  if (in->at == in->end || deep > JSON_DEEPEST)
    return 0;
  if (*in->at == '"') {
    if (!json_string(in, &part))
      return 0;
  } else if (*in->at == '{' || *in->at == '[') {
    char close = *in->at == '{' ? '}' : ']';
    in->at++;
    if (!json_take(in, close)) {
      do {
        if (close == '}' && !(json_string(in, &part) && json_take(in, ':')))
          return 0;
        if (!json_value(in, &part, deep + 1))
          return 0;
      } while (json_take(in, ','));
      if (!json_take(in, close))
        return 0;
    }
  } else {
    static const char *const words[] = {"true", "false", "null"};
    for (int i = 0; i < 3; i++) {
      size_t length = strlen(words[i]);
      if ((size_t)(in->end - in->at) >= length && memcmp(in->at, words[i], length) == 0) {
        out->end = in->at += length;
        return 1;
      }
    }
    while (in->at < in->end && *in->at != '\0' && strchr("+-.0123456789eE", *in->at) != NULL)
      in->at++;
    if (in->at == out->at)
      return 0;
  }
  out->end = in->at;
  return 1;
}

// Whether the bytes are one JSON object and nothing else.
static inline int json_document(const void *data, size_t length, struct json *out) {
  struct json in = {data, (const char *)data + length};
  if (length == 0 || !json_value(&in, out, 0) || *out->at != '{')
    return 0;
  json_space(&in);
  return in.at == in.end;
}

// The value of a field of an object that was looked through.
static inline int json_field(struct json object, const char *name, struct json *out) {
  struct json in = object, key;
  if (object.at == object.end || !json_take(&in, '{') || json_take(&in, '}'))
    return 0;
  do {
    if (!json_string(&in, &key) || !json_take(&in, ':') || !json_value(&in, out, 0))
      return 0;
    if ((size_t)(key.end - key.at) == strlen(name) && memcmp(key.at, name, strlen(name)) == 0)
      return 1;
  } while (json_take(&in, ','));
  return 0;
}

// A field that is a string without escapes, of at most `room` - 1 bytes.
static inline int json_text(struct json object, const char *name, char *out, size_t room) {
  struct json value, text;
  if (!json_field(object, name, &value) || !json_string(&value, &text))
    return 0;
  size_t length = (size_t)(text.end - text.at);
  if (length >= room || memchr(text.at, '\\', length) != NULL || memchr(text.at, '\0', length) != NULL)
    return 0;
  memcpy(out, text.at, length);
  out[length] = '\0';
  return 1;
}

// A field that is a whole number from 0 to `most`.
static inline int json_number(struct json object, const char *name, uint32_t most, uint32_t *out) {
  struct json value;
  uint64_t number = 0;
  if (!json_field(object, name, &value))
    return 0;
  for (const char *digit = value.at; digit < value.end; digit++) {
    if (*digit < '0' || *digit > '9' || (number = number * 10 + (uint64_t)(*digit - '0')) > most)
      return 0;
  }
  *out = (uint32_t)number;
  return 1;
}
