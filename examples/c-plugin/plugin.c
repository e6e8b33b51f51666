// c-plugin: a network in C. Every pod hangs on a cable (a veth) of its own, and the node routes between the cables.
//
//     make && yard plugin check ./libswitchyard_c-plugin.so

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "switchyard_plugin.h"

SWITCHYARD_MANIFEST("{\"name\":\"c-plugin\",\"version\":\"0.1.0\",\"description\":\"Routed pods, in C.\",\"needs\":[\"veth\"],"
                    "\"options\":[{\"name\":\"mtu\",\"type\":\"integer\",\"default\":\"the underlay's\","
                    "\"description\":\"MTU of the pods in bytes.\"}]}");

// Nobody's address: pods send what is not for themselves to it.
#define GATEWAY "169.254.1.1"
#define GATEWAY_MAC "0a:58:a9:fe:01:01"

// What an instance keeps: its option, 0 if it was not given.
struct network {
  uint32_t mtu;
};

// The arguments of a call, as far as they are needed. An address is one that inet_pton took.
struct arguments {
  char node[64], node_ip[46], node_block[50], peer_ip[46], uid[64], pod_ip[46], pod_mac[18];
  uint32_t mtu;
  // `,"mtu":N` for routes to the node or peer, where the way there carries less than the sender's uplink.
  char narrow[20];
};

static int32_t finish(const struct switchyard_sink *out, int32_t status, const char *text) {
  out->write(out->context, (struct switchyard_bytes){(const uint8_t *)text, strlen(text)});
  return status;
}

static int is(struct switchyard_bytes bytes, const char *text) {
  return bytes.len == strlen(text) && memcmp(bytes.data, text, bytes.len) == 0;
}

static int32_t create(struct switchyard_bytes options, void **instance, const struct switchyard_sink *out) {
  struct json given, key, value;
  struct network network = {0};
  if (!json_document(options.data, options.len, &given))
    return finish(out, SWITCHYARD_INVALID, "{\"option\":\"\",\"problem\":\"options are no JSON object\"}");
  struct json in = given;
  json_take(&in, '{');
  while (json_string(&in, &key) && json_take(&in, ':') && json_value(&in, &value, 0)) {
    char text[256];
    int length = (int)(key.end - key.at);
    if (length != 3 || memcmp(key.at, "mtu", 3) != 0) {
      snprintf(text, sizeof text, "{\"option\":\"%.*s\",\"problem\":\"unknown; this plugin takes mtu\"}",
               length < 100 ? length : 0, key.at);
      return finish(out, SWITCHYARD_INVALID, text);
    }
    if (!json_number(given, "mtu", 65535, &network.mtu) || network.mtu < 576)
      return finish(out, SWITCHYARD_INVALID, "{\"option\":\"mtu\",\"problem\":\"expected a number from 576 to 65535\"}");
    json_take(&in, ',');
  }
  struct network *made = malloc(sizeof *made);
  if (made == NULL)
    return finish(out, SWITCHYARD_FAILED, "no memory");
  *made = network;
  *instance = made;
  return SWITCHYARD_OK;
}

static void destroy(void *instance) { free(instance); }

// Reads an IPv4 address, and its hardware address as every plugin derives it.
static int address(struct json object, const char *name, char *out, size_t room, char *mac) {
  struct in_addr ip;
  if (!json_text(object, name, out, room) || inet_pton(AF_INET, out, &ip) != 1)
    return 0;
  const unsigned char *byte = (const unsigned char *)&ip;
  if (mac != NULL)
    snprintf(mac, 18, "0a:58:%02x:%02x:%02x:%02x", byte[0], byte[1], byte[2], byte[3]);
  return 1;
}

// A block's prefix, without host bits.
static int block(struct json object, const char *name, char *out, size_t room) {
  char text[50];
  struct in_addr ip;
  if (!json_text(object, name, text, sizeof text))
    return 0;
  char *slash = strchr(text, '/');
  if (slash == NULL)
    return 0;
  *slash = '\0';
  int length = atoi(slash + 1);
  if (length < 0 || length > 32 || inet_pton(AF_INET, text, &ip) != 1)
    return 0;
  ip.s_addr &= htonl(length == 0 ? 0 : 0xffffffffu << (32 - length));
  char prefix[INET_ADDRSTRLEN];
  return inet_ntop(AF_INET, &ip, prefix, sizeof prefix) != NULL &&
         snprintf(out, room, "%s/%d", prefix, length) < (int)room;
}

// A name that is the same for the same uid and different for others: FNV-1a.
static void cable(const char *uid, char out[16]) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (; *uid != '\0'; uid++)
    hash = (hash ^ (unsigned char)*uid) * 0x100000001b3u;
  snprintf(out, 16, "veth%011llx", (unsigned long long)(hash >> 20));
}

// The answers, written into `out`.
static const char *node(const struct arguments *a, char *out, size_t room) {
  snprintf(out, room, "{\"node/%s\":[{\"kind\":\"sysctl\",\"path\":\"net/ipv4/ip_forward\",\"value\":\"1\"}]}", a->node);
  return out;
}

static const char *pod(const struct arguments *a, char *out, size_t room) {
  char dev[16];
  cable(a->uid, dev);
  snprintf(out, room,
           "{\"node/%1$s\":["
           "{\"kind\":\"link\",\"name\":\"%2$s\",\"mtu\":%3$u,\"mac\":\"" GATEWAY_MAC "\","
           "\"type\":{\"veth\":{\"peer\":{\"place\":\"pod/%4$s\",\"name\":\"eth0\"}}}},"
           "{\"kind\":\"neighbour\",\"dev\":\"%2$s\",\"address\":\"%5$s\",\"mac\":\"%6$s\"},"
           "{\"kind\":\"route\",\"to\":\"%5$s/32\",\"via\":{\"dev\":\"%2$s\"}}],"
           "\"pod/%4$s\":["
           "{\"kind\":\"link\",\"name\":\"lo\",\"type\":\"existing\"},"
           "{\"kind\":\"link\",\"name\":\"eth0\",\"mtu\":%3$u,\"mac\":\"%6$s\","
           "\"type\":{\"veth\":{\"peer\":{\"place\":\"node/%1$s\",\"name\":\"%2$s\"}}}},"
           "{\"kind\":\"address\",\"dev\":\"eth0\",\"address\":\"%5$s/32\",\"noprefixroute\":true},"
           "{\"kind\":\"neighbour\",\"dev\":\"eth0\",\"address\":\"" GATEWAY "\",\"mac\":\"" GATEWAY_MAC "\"},"
           "{\"kind\":\"route\",\"to\":\"" GATEWAY "/32\",\"via\":{\"dev\":\"eth0\"}},"
           "{\"kind\":\"route\",\"to\":\"0.0.0.0/0\",\"via\":{\"dev\":\"eth0\",\"gateway\":\"" GATEWAY "\"}}]}",
           a->node, dev, a->mtu, a->uid, a->pod_ip, a->pod_mac);
  return out;
}

// A pod whose address is not of its node's block is reached by that node all the same.
static const char *remote(const struct arguments *a, char *out, size_t room) {
  snprintf(out, room, "{\"node/%s\":[{\"kind\":\"route\",\"to\":\"%s/32\",\"via\":{\"gateway\":\"%s\"}%s}]}",
           a->node, a->pod_ip, a->peer_ip, a->narrow);
  return out;
}

// The upstream device knows which block lies behind which node.
static const char *underlay(const struct arguments *a, char *out, size_t room) {
  snprintf(out, room, "{\"router\":[{\"kind\":\"route\",\"to\":\"%s\",\"via\":{\"gateway\":\"%s\"}%s}]}",
           a->node_block, a->node_ip, a->narrow);
  return out;
}

// The operations there are, and which arguments each has.
static const struct {
  const char *name;
  int peer, pod;
  const char *(*answer)(const struct arguments *, char *, size_t);
} operations[] = {
    {SWITCHYARD_OPERATION_NODE, 0, 0, node},
    {SWITCHYARD_OPERATION_POD, 0, 1, pod},
    {SWITCHYARD_OPERATION_REMOTE, 1, 1, remote},
    {SWITCHYARD_OPERATION_UNDERLAY, 0, 0, underlay},
};

static int32_t call(void *instance, struct switchyard_bytes operation, struct switchyard_bytes input,
                    const struct switchyard_sink *out) {
  const struct network *network = instance;
  size_t i = 0;
  while (i < sizeof operations / sizeof *operations && !is(operation, operations[i].name))
    i++;
  if (i == sizeof operations / sizeof *operations)
    return SWITCHYARD_NOT_IMPLEMENTED;

  struct json document, facts, node, peer, pod;
  struct arguments a;
  memset(&a, 0, sizeof a);
  if (!json_document(input.data, input.len, &document))
    return finish(out, SWITCHYARD_INVALID, "the input is no JSON object");
  if (!json_field(document, "facts", &facts) || !json_number(facts, "underlayMtu", UINT32_MAX, &a.mtu))
    return finish(out, SWITCHYARD_INVALID, "facts.underlayMtu: must be a number");
  if (!json_field(document, "node", &node) || !json_text(node, "name", a.node, sizeof a.node) ||
      !address(node, "address", a.node_ip, sizeof a.node_ip, NULL) ||
      !block(node, "podCidr", a.node_block, sizeof a.node_block))
    return finish(out, SWITCHYARD_INVALID, "node: must have a name, and an IPv4 address and podCidr");
  if (operations[i].peer &&
      (!json_field(document, "peer", &peer) || !address(peer, "address", a.peer_ip, sizeof a.peer_ip, NULL)))
    return finish(out, SWITCHYARD_INVALID, "peer: must have an IPv4 address");
  if (operations[i].pod && (!json_field(document, "pod", &pod) || !json_text(pod, "uid", a.uid, sizeof a.uid) ||
                            !address(pod, "ip", a.pod_ip, sizeof a.pod_ip, a.pod_mac)))
    return finish(out, SWITCHYARD_INVALID, "pod: must have a uid and an IPv4 address");
  uint32_t narrow;
  if (json_number(operations[i].peer ? peer : node, "mtu", UINT32_MAX, &narrow) && narrow < a.mtu)
    snprintf(a.narrow, sizeof a.narrow, ",\"mtu\":%u", narrow);
  if (network->mtu != 0 && network->mtu < a.mtu)
    a.mtu = network->mtu;
  a.mtu = a.mtu < 576 ? 576 : a.mtu > 65535 ? 65535 : a.mtu;

  char answer[4096];
  return finish(out, SWITCHYARD_OK, operations[i].answer(&a, answer, sizeof answer));
}

int32_t switchyard_plugin_v1(const struct switchyard_host *host, struct switchyard_table *plugin) {
  (void)host;
  if (plugin->struct_size < sizeof *plugin)
    return SWITCHYARD_INVALID;
  *plugin = (struct switchyard_table){sizeof *plugin, create, destroy, call, &switchyard_manifest.header};
  return SWITCHYARD_OK;
}
