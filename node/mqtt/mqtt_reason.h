/* mqtt_reason: MQTT 5 reason codes, their texts and where they may stand (mqtt_reason.def), and
 * what becomes of them for an MQTT 3.1.1 client. Pure functions, any thread. */
#ifndef LEAT_NODE_MQTT_REASON_H
#define LEAT_NODE_MQTT_REASON_H

#include <stdbool.h>
#include <stdint.h>

enum mqtt_reason {
#define MQTT_REASON(code, NAME, text, packets) MQTT_REASON_##NAME = (code),
#include "node/mqtt/mqtt_reason.def"
#undef MQTT_REASON
};

const char *mqtt_reason_text(uint8_t code); /* "not authorized"; "unknown reason" */

/* May a packet of this type (enum mqtt_type) carry this code? */
bool mqtt_reason_allowed(uint8_t code, unsigned type);

uint8_t mqtt_reason_to_connack3(uint8_t code);   /* → a 3.1.1 CONNACK return code, 0 to 5 */
uint8_t mqtt_reason_from_connack3(uint8_t code); /* the reverse, for our client */

#endif
