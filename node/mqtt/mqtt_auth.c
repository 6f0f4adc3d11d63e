#include "node/mqtt/mqtt_auth.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/mqtt/mqtt_client.h"
#include "node/net/tls.h"
#include "tenancy/certificate.h"

const char mqtt_auth_method[] = "OAUTH2-JWT";

/* What is not proven is 0x86 in one and the same way; what is proven but not enough is 0x87. */
static uint8_t reason_of(enum token_refusal why)
{
	switch (why) {
	case TOKEN_TOO_LONG:
	case TOKEN_MALFORMED:
	case TOKEN_HEADER:
	case TOKEN_ALGORITHM:
	case TOKEN_UNVERIFIED:
		return MQTT_REASON_BAD_CREDENTIALS;
	case TOKEN_SUSPENDED:
		return MQTT_REASON_BANNED;
	default:
		return MQTT_REASON_NOT_AUTHORIZED;
	}
}

static int bind_acl(const struct mqtt_client *c, struct claims *out, struct err *e)
{
	if (acl_bind(out->acl, out->subject, slice_str(c->client_id), e) == 0)
		return 0;
	e->code = MQTT_REASON_NOT_AUTHORIZED;
	claims_release(out);
	return -1;
}

static int refuse(const struct mqtt_client *c, const struct token_answer *answer, struct err *e)
{
	struct mqtt *m = c->mqtt;

	m->stats.token_refused[answer->why]++;
	if (answer->detail[0] && mqtt_may_log(m)) /* what the client is not told */
		log_info("mqtt", "%s token=%s detail=%s", mqtt_client_name(c),
		         token_refusal_name(answer->why), log_quote_str(answer->detail));
	return err_set(e, reason_of(answer->why), "%s", answer->text);
}

int mqtt_auth_token(const struct mqtt_client *c, struct slice token, struct claims *out,
                    struct err *e)
{
	struct mqtt *m = c->mqtt;
	struct token_answer answer;

	*out = (struct claims){0};
	if (!token.n)
		return err_set(e, MQTT_REASON_BAD_CREDENTIALS,
		               "there is no token: send a JWT as the password");
	if (token_verify(m->set.registry, &m->set.token, token, clock_wall_ms() / 1000, out,
	                 &answer) == 0)
		return bind_acl(c, out, e);
	return refuse(c, &answer, e);
}

int mqtt_auth_certificate(const struct mqtt_client *c, struct claims *out, struct err *e)
{
	struct token_answer answer;
	struct certificate_shown shown;
	struct tls_shown tls;

	*out = (struct claims){0};
	if (!conn_tls_shown(c->conn, &tls))
		return err_set(e, MQTT_REASON_BAD_CREDENTIALS,
		               "there is no token: send a JWT as the password");
	memcpy(shown.fingerprint, tls.sha256, sizeof shown.fingerprint);
	shown.not_before_s = (uint64_t)tls.not_before_s;
	shown.not_after_s = (uint64_t)tls.not_after_s;
	if (certificate_verify(c->mqtt->set.registry, &shown, clock_wall_ms() / 1000, out,
	                       &answer) == 0)
		return bind_acl(c, out, e);
	return refuse(c, &answer, e);
}

static struct acl *everything(void)
{
	json_t *claim = json_pack("[{s:s, s:s, s:[ss]}]", "permission", "allow", "action", "all",
	                          "topics", "#", "$leat/#");
	struct acl *acl = acl_parse(claim, NULL);

	json_decref(claim);
	if (!acl)
		fatal("the acl that allows everything does not parse");
	return acl;
}

int mqtt_auth_insecure(const struct mqtt_client *c, struct claims *out, struct err *e)
{
	const struct tenant *t =
	        registry_tenant_by_name(c->mqtt->set.registry, slice_str(c->insecure_tenant));

	*out = (struct claims){0};
	if (!t)
		return err_set(e, MQTT_REASON_SERVER_UNAVAILABLE,
		               "this listener's tenant '%s' does not exist", c->insecure_tenant);
	if (t->state != TENANT_ACTIVE)
		return err_set(e, MQTT_REASON_BANNED, "tenant '%s' is %s", t->name,
		               tenant_state_name(t->state));
	out->tenant = t;
	out->subject = slice_str(xstrdup("insecure"));
	out->token_id = slice_str(xstrdup(""));
	out->acl = everything();
	return bind_acl(c, out, e);
}
