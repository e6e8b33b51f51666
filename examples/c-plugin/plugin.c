// A network plugin in C: pods have a loopback interface and nothing else.
//
//     cc -shared -fPIC -I core/plugin/include -o libswitchyard_c-plugin.so examples/c-plugin/plugin.c
//     yard plugin inspect ./libswitchyard_c-plugin.so

#define _GNU_SOURCE // memmem
#include <string.h>

#include "switchyard_plugin.h"

SWITCHYARD_MANIFEST("{\"name\":\"c-plugin\",\"version\":\"0.1.0\",\"description\":\"A loopback interface, in C.\"}");

static void put(const struct switchyard_sink *out, const char *text, size_t len) {
  out->write(out->context, (struct switchyard_bytes){(const uint8_t *)text, len});
}

static int32_t finish(const struct switchyard_sink *out, int32_t status, const char *text) {
  put(out, text, strlen(text));
  return status;
}

static int is(struct switchyard_bytes bytes, const char *text) {
  return bytes.len == strlen(text) && memcmp(bytes.data, text, bytes.len) == 0;
}

static int32_t create(struct switchyard_bytes options, void **instance, const struct switchyard_sink *out) {
  if (!is(options, "{}"))
    return finish(out, SWITCHYARD_INVALID, "{\"option\":\"\",\"problem\":\"c-plugin takes none\"}");
  *instance = NULL; // It keeps no state.
  return SWITCHYARD_OK;
}

static void destroy(void *instance) { (void)instance; }

// Wants `lo`, up, in the pod. The host writes JSON without white space, and a pod's uid first; a larger plugin has a parser.
static int32_t pod(struct switchyard_bytes input, const struct switchyard_sink *out) {
  static const char before[] = "\"pod\":{\"uid\":\"";
  const char *end = (const char *)input.data + input.len;
  const char *uid = memmem(input.data, input.len, before, sizeof before - 1);
  if (uid == NULL)
    return finish(out, SWITCHYARD_INVALID, "no pod.uid in the input");
  uid += sizeof before - 1;
  const char *quote = memchr(uid, '"', (size_t)(end - uid));
  if (quote == NULL)
    return finish(out, SWITCHYARD_INVALID, "pod.uid has no end");
  finish(out, SWITCHYARD_OK, "{\"pod/");
  put(out, uid, (size_t)(quote - uid));
  return finish(out, SWITCHYARD_OK, "\":[{\"kind\":\"link\",\"name\":\"lo\",\"type\":\"existing\"}]}");
}

static int32_t call(void *instance, struct switchyard_bytes operation, struct switchyard_bytes input,
                    const struct switchyard_sink *out) {
  (void)instance;
  if (is(operation, SWITCHYARD_OPERATION_NODE))
    return finish(out, SWITCHYARD_OK, "{}");
  if (is(operation, SWITCHYARD_OPERATION_POD))
    return pod(input, out);
  return SWITCHYARD_NOT_IMPLEMENTED;
}

int32_t switchyard_plugin_v1(const struct switchyard_host *host, struct switchyard_table *plugin) {
  (void)host;
  if (plugin->struct_size < sizeof *plugin)
    return SWITCHYARD_INVALID;
  *plugin = (struct switchyard_table){sizeof *plugin, create, destroy, call, &switchyard_manifest.header};
  return SWITCHYARD_OK;
}
