#include "node/mqtt/mqtt_reason.h"

#include "node/mqtt/mqtt_codec.h"

#include <stddef.h>

/* Which packets may carry a code; PUBREC is as PUBACK, PUBCOMP as PUBREL. */
enum {
	R_CONNACK = 1 << 0,
	R_PUBACK = 1 << 1,
	R_PUBREL = 1 << 2,
	R_SUBACK = 1 << 3,
	R_UNSUBACK = 1 << 4,
	R_DISCONNECT = 1 << 5,
	R_AUTH = 1 << 6,
};

static const struct {
	const char *text;
	uint8_t packets;
} reasons[256] = {
#define MQTT_REASON(code, NAME, txt, pkts) [code] = {.text = (txt), .packets = (pkts)},
#include "node/mqtt/mqtt_reason.def"
#undef MQTT_REASON
};

static const uint8_t packet_bit[16] = {
        [MQTT_CONNACK] = R_CONNACK,   [MQTT_PUBACK] = R_PUBACK,         [MQTT_PUBREC] = R_PUBACK,
        [MQTT_PUBREL] = R_PUBREL,     [MQTT_PUBCOMP] = R_PUBREL,        [MQTT_SUBACK] = R_SUBACK,
        [MQTT_UNSUBACK] = R_UNSUBACK, [MQTT_DISCONNECT] = R_DISCONNECT, [MQTT_AUTH] = R_AUTH,
};

/* 3.1.1 return codes (MQTT 3.1.1 table 3.1). */
enum {
	CONNACK3_ACCEPTED,
	CONNACK3_VERSION,
	CONNACK3_CLIENT_ID,
	CONNACK3_UNAVAILABLE,
	CONNACK3_CREDENTIALS,
	CONNACK3_NOT_AUTHORIZED,
};

const char *mqtt_reason_text(uint8_t code)
{
	return reasons[code].text ? reasons[code].text : "unknown reason";
}

bool mqtt_reason_allowed(uint8_t code, unsigned type)
{
	return type < 16 && (reasons[code].packets & packet_bit[type]);
}

uint8_t mqtt_reason_to_connack3(uint8_t code)
{
	static const uint8_t map[256] = {
	        [MQTT_REASON_UNSUPPORTED_VERSION] = CONNACK3_VERSION,
	        [MQTT_REASON_BAD_CLIENT_ID] = CONNACK3_CLIENT_ID,
	        [MQTT_REASON_BAD_CREDENTIALS] = CONNACK3_CREDENTIALS,
	        [MQTT_REASON_BAD_AUTH_METHOD] = CONNACK3_CREDENTIALS,
	        [MQTT_REASON_NOT_AUTHORIZED] = CONNACK3_NOT_AUTHORIZED,
	        [MQTT_REASON_BANNED] = CONNACK3_NOT_AUTHORIZED,
	        [MQTT_REASON_TOPIC_NAME_INVALID] = CONNACK3_NOT_AUTHORIZED, /* the will's topic */
	};

	if (code < 0x80)
		return CONNACK3_ACCEPTED;
	return map[code] ? map[code] : CONNACK3_UNAVAILABLE;
}

uint8_t mqtt_reason_from_connack3(uint8_t code)
{
	static const uint8_t map[] = {
	        [CONNACK3_ACCEPTED] = MQTT_REASON_SUCCESS,
	        [CONNACK3_VERSION] = MQTT_REASON_UNSUPPORTED_VERSION,
	        [CONNACK3_CLIENT_ID] = MQTT_REASON_BAD_CLIENT_ID,
	        [CONNACK3_UNAVAILABLE] = MQTT_REASON_SERVER_UNAVAILABLE,
	        [CONNACK3_CREDENTIALS] = MQTT_REASON_BAD_CREDENTIALS,
	        [CONNACK3_NOT_AUTHORIZED] = MQTT_REASON_NOT_AUTHORIZED,
	};

	return code < sizeof map ? map[code] : MQTT_REASON_UNSPECIFIED;
}
