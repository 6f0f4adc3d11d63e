/* The public keys of tests/unit/tenancy/keys.h as members of a JWK. */
#ifndef LEAT_TEST_JWKS_H
#define LEAT_TEST_JWKS_H

#define JWK_RSA                                                                                    \
	"\"kty\":\"RSA\",\"e\":\"AQAB\",\"n\":\"7hRPcRRPHzGE6NXeyO4OdOhb1IifkP_I8MrOgWBh5EHzz7EHR" \
	"ycG5kEPFWVE6ndmGHuXt7I5H8q8eXovJnFNjpOCuWyJrpnBwzNkDVPDjTlWLi7yv7o9WnWxJejsUxQP5cprGCrSs" \
	"RpGNLZjvI39I9eR1fy8MHtcTUT6USt-LsVUu28LU5vACassaVQnaVijYPknfSMPTEp39xdIC_AMLDsyY1sjAsYU9" \
	"OaGoLO_bsm37uTyA6IVENGKUxyc5F0a_yYM1HalEWBkFu0HbmaFJnSnwEGNA3_bkjTW1ZVbsJ4SMMZNvOnDbsFOX" \
	"38koVaQNRqUU2vkwCHB14qJPoirCw\""
#define JWK_EC                                                                                    \
	"\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"ac0VimK8V-A62IBuBpYf5rxYbt8_VUdEUDCc2HiO3TA\"," \
	"\"y\":\"hLMyky1uv_2Qz0F7bN-dHIO-u4qbcOtiSVE7auKLfLI\""
#define JWK_ED                                                                           \
	"\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"dI6VJS7o-fHsRICL6kWnTSCZB98qJrZr0_" \
	"wR6i8IInU\""
#define JWK_OCT "\"kty\":\"oct\",\"k\":\"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY\""

#endif
