/* mqtt_auth: who is at the other end: tokens to claims, with MQTT reason codes for what is wrong
 * with them. Loop thread only. */
#ifndef LEAT_NODE_MQTT_AUTH_H
#define LEAT_NODE_MQTT_AUTH_H

#include "base/err.h"
#include "base/slice.h"
#include "tenancy/token.h"

struct mqtt_client;

extern const char mqtt_auth_method[]; /* the one enhanced authentication method */

/* All fill *out for the client's (tenant, subject) and bind its acl to the client id: 0, or -1
 * with e->code the CONNACK reason and *out zeroed. The second is for who sends no token: by the
 * certificate that the connection showed, if any. The third lets everybody in as the listener's
 * tenant. */
int mqtt_auth_token(const struct mqtt_client *c, struct slice token, struct claims *out,
                    struct err *e);
int mqtt_auth_certificate(const struct mqtt_client *c, struct claims *out, struct err *e);
int mqtt_auth_insecure(const struct mqtt_client *c, struct claims *out, struct err *e);

#endif
