// Generated from core/plugin/src/abi.rs; do not edit.
//
// The boundary between a plugin, in whatever language and by whatever compiler, and its host. Its rules:
//
// - One entry symbol per major version, `switchyard_plugin_v1`. Within a major a field is never changed or removed; new ones are appended.
// - Every table begins with `struct_size`; a reader takes the smaller of both sizes, and what is missing is not implemented.
// - Calls are synchronous: an operation's name and JSON in, JSON out through a sink that the host owns. Whatever is passed
//   in is borrowed for the call. No memory changes its owner, so there is no second allocator and nothing to free.
// - No panic and no exception crosses it.
// - The manifest lies in the ELF section `SWITCHYARD_SECTION`, a `struct switchyard_header` and JSON, and is read before the library is opened.


#pragma once

#include <stddef.h>
#include <stdint.h>

// The ELF section that holds the manifest, and its first bytes.
#define SWITCHYARD_SECTION ".switchyard"
#define SWITCHYARD_MAGIC {'S', 'W', 'Y', 'A', 'R', 'D', 'P', 'L'}

// The operations of `call`: each takes a JSON object of its arguments and answers with JSON.
#define SWITCHYARD_OPERATION_POOL "pool" // {facts, node, pod} -> {block, reserved}
#define SWITCHYARD_OPERATION_NODE "node" // {facts, node} -> fragment
#define SWITCHYARD_OPERATION_PEER "peer" // {facts, node, peer} -> fragment
#define SWITCHYARD_OPERATION_POD "pod" // {facts, node, pod} -> fragment
#define SWITCHYARD_OPERATION_REMOTE "remote" // {facts, node, peer, pod} -> fragment
#define SWITCHYARD_OPERATION_UNDERLAY "underlay" // {facts, node} -> fragment


// Major version; a host loads libraries of its own major only.
#define SWITCHYARD_ABI_MAJOR 1

// Minor version; a diagnostic, not a gate.
#define SWITCHYARD_ABI_MINOR 0

// Done; the answer is in the sink.
#define SWITCHYARD_OK 0

// The plugin does not have this operation.
#define SWITCHYARD_NOT_IMPLEMENTED 1

// The input or an option is wrong; the sink has a message, for `create` as JSON `{"option": .., "problem": ..}`.
#define SWITCHYARD_INVALID 2

// The plugin panicked; the instance must not be used again. The sink has a message.
#define SWITCHYARD_PANICKED 3

// The plugin failed otherwise; the sink has a message.
#define SWITCHYARD_FAILED 4

// What stands before the manifest's JSON.
struct switchyard_header {
  // `SWITCHYARD_MAGIC`.
  uint8_t magic[8];
  // Bytes from the start of this header to the JSON.
  uint32_t header_size;
  // `SWITCHYARD_ABI_MAJOR` of the plugin.
  uint32_t abi_major;
  // `SWITCHYARD_ABI_MINOR` of the plugin.
  uint32_t abi_minor;
  // Bytes of JSON.
  uint32_t manifest_len;
};

// Bytes that somebody else owns.
struct switchyard_bytes {
  // The first byte; may be anything if `len` is 0.
  const uint8_t *data;
  // How many.
  size_t len;
};

// Where a plugin writes an answer, in one or several pieces.
struct switchyard_sink {
  // `sizeof(struct switchyard_sink)` of the host.
  size_t struct_size;
  // To be handed back to `write`.
  void *context;
  // Takes a copy of the bytes. After too many the rest is dropped and the call fails.
  void (*write)(void *context, struct switchyard_bytes bytes);
};

// What the host offers.
struct switchyard_host {
  // `sizeof(struct switchyard_host)` of the host.
  size_t struct_size;
  // `SWITCHYARD_ABI_MAJOR` of the host.
  uint32_t abi_major;
  // `SWITCHYARD_ABI_MINOR` of the host.
  uint32_t abi_minor;
};

// What the plugin offers. All three functions must be there.
struct switchyard_table {
  // Set by the host to the room there is, by the plugin to what it has filled in.
  size_t struct_size;
  // Makes an instance with these options, a JSON object, and puts it into `instance`; null is as good as any.
  int32_t (*create)(struct switchyard_bytes options,
                    void **instance,
                    const struct switchyard_sink *out);
  // Ends an instance. No call is under way then, and none comes after it.
  void (*destroy)(void *instance);
  // Performs an operation. May be called by several threads at once, also for one instance.
  int32_t (*call)(void *instance,
                  struct switchyard_bytes operation,
                  struct switchyard_bytes input,
                  const struct switchyard_sink *out);
  // The record in the manifest's section; keeps the linker from dropping it. May be null.
  const struct switchyard_header *manifest;
};

// The type of `switchyard_plugin_v1`: fills in the plugin's table, whose `struct_size` says how much room there is.
typedef int32_t (*switchyard_entry_fn)(const struct switchyard_host *host,
                                       struct switchyard_table *plugin);

// Puts the manifest's record into its section; `json` is a string literal. Once a plugin, at file scope, with a semicolon.
#define SWITCHYARD_MANIFEST(json) \
  static const struct { \
    struct switchyard_header header; \
    char text[sizeof(json)]; \
  } switchyard_manifest __attribute__((used, section(SWITCHYARD_SECTION))) = { \
    { SWITCHYARD_MAGIC, sizeof(struct switchyard_header), SWITCHYARD_ABI_MAJOR, SWITCHYARD_ABI_MINOR, sizeof(json) - 1 }, \
    json \
  }

// The entry symbol, for the plugin to define.
#ifdef __cplusplus
extern "C"
#endif
__attribute__((visibility("default")))
int32_t switchyard_plugin_v1(const struct switchyard_host *host, struct switchyard_table *plugin);
