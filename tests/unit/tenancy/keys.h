/* Keys for tests and fuzzing, made with `openssl genpkey`, and tokens that another implementation
 * (PyJWT 2.6) signed with them. They protect nothing. */
#ifndef LEAT_TESTS_KEYS_H
#define LEAT_TESTS_KEYS_H

/* each test uses some of them */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-const-variable"

static const char key_secret[] = "0123456789abcdef0123456789abcdef"; /* 32 bytes */

static const char key_rsa_private[] =
        "-----BEGIN PRIVATE KEY-----\n"
        "MIIEvgIBADANBgkqhkiG9w0BAQEFAASCBKgwggSkAgEAAoIBAQDuFE9xFE8fMYTo\n"
        "1d7I7g506FvUiJ+Q/8jwys6BYGHkQfPPsQdHJwbmQQ8VZUTqd2YYe5e3sjkfyrx5\n"
        "ei8mcU2Ok4K5bImumcHDM2QNU8ONOVYuLvK/uj1adbEl6OxTFA/lymsYKtKxGkY0\n"
        "tmO8jf0j15HV/Lwwe1xNRPpRK34uxVS7bwtTm8AJqyxpVCdpWKNg+Sd9Iw9MSnf3\n"
        "F0gL8AwsOzJjWyMCxhT05oags79uybfu5PIDohUQ0YpTHJzkXRr/JgzUdqURYGQW\n"
        "7QduZoUmdKfAQY0Df9uSNNbVlVuwnhIwxk286cNuwU5ffyShVpA1GpRTa+TAIcHX\n"
        "iok+iKsLAgMBAAECggEAQAqsl/Frmyt54hvtssT+lIoQcapSqfF0Pvl+9SRVEM6A\n"
        "5CRtncEsxPFJOmskT6HQj9NnK13AqgGiE1c/qaqevzSE3JYKrzHjAjwntMIMf0em\n"
        "HAQ6/kH90QCJp3XxZCOoZxq9FiImzMcRjYpmZ8kWB/cr3pD+mlgEqzBb2UvGxJOB\n"
        "djErHaejDZKub8aAudJpOhqT8rqgO3dY9RUGajvpHdHDvgQ434aupvKxS+YJKYUp\n"
        "l+buJ+4lTQ1TOdq/iLJiOZWGcBnuu+kNhJt649hE6YHBIiRej0ZzabgznV9McheC\n"
        "/Yq3nvMI0Ktqzlp/meyX7b/y+Oggqt1rk1hzvFb6+QKBgQD4d4cubtTQiit7Z5Gq\n"
        "f5MUCncvqGXNaFyFk2+ckZlKLiMiMAUCVWPOSeeS2Ul1qkCKRHizt6rwNW5IiypL\n"
        "cZ+ea9MWZhA/bQ8nMDVD6rF1p5ibhUKkl65mTmrN+SBffIbl/e5ywJm7HotAccd+\n"
        "UzIhR3/jWO1BbcSzVMJy+GpjlQKBgQD1TCjIvYdsMPwY4yJ7g67y/d8BuvDS6l5d\n"
        "yMTDhZLmnqkGBizNDSyhhR5m/6qws+dr47eYPr8WZ7qsKcORViJL08J81VosHB9+\n"
        "1XsV56gYqXEHgzCA1Gqmcl2GYHzqpCsUmbBawDaJPV+UPdQGfV0ODNATlO3+x0Zp\n"
        "RhiBjCUsHwKBgQDftM6TcdpOQHjRzPgL6H0F6D5TPG0cOcBDy/ELqNO5RD0BxPZd\n"
        "mYAY9dV4FAbd2AHv+6IpPU68o3699f6Imq66Nh6B5jbuxESGZhMvKRnJ8rGmJJ9S\n"
        "DfdJyYTEGm+ZSUczwCN2Ug6XuPJrfYW+KS3TZMqyaRiEdk5JoCDK3vr62QKBgQCt\n"
        "O2LWGZto2dM/lDDG/8Fu08FJTIdEvMV2ABKNbmjHO6dsnLHJAhPR4dwNq2MVNYgq\n"
        "1n/TIgT7Qrg/W6NEoYrI+Dyywk3TNu07OnKZjqdU+1zajFiVsu26rKvF+aBeaSAP\n"
        "hVZZUMNy+ofkfiGdj61G/d945MWLF5pvQFSQMLQTywKBgCN7uIcS2ackg9rOkvF7\n"
        "QVBuz8JWjgU9x0NK1gpc1MGxnHWZuR2JFaGtChXNi37vQs4vgxU78gku5GMHVrTA\n"
        "CKtdNNqRB7BUlHVM8RYSXwkY520YNvw8iDEPyCe1eb+TOzBCfviNSX5RJGiMI+Sy\n"
        "jSqF/bafBQhgBi/KgKPfiY3t\n"
        "-----END PRIVATE KEY-----\n";

static const char key_ec_private[] =
        "-----BEGIN PRIVATE KEY-----\n"
        "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgQ0PTFAQ4y7tC/WZB\n"
        "NbTTLAvmJ+ZkAXAw+4j8Zq87Yr+hRANCAARpzRWKYrxX4DrYgG4Glh/mvFhu3z9V\n"
        "R0RQMJzYeI7dMISzMpMtbr/9kM9Be2zfnRyDvruKm3DrYklRO2rii3yy\n"
        "-----END PRIVATE KEY-----\n";

static const char key_ed_private[] =
        "-----BEGIN PRIVATE KEY-----\n"
        "MC4CAQAwBQYDK2VwBCIEIMkZVYwpq1rZAJ3ln7VYK9sZG6Lx9qh7ta07SC0xQ4gt\n"
        "-----END PRIVATE KEY-----\n";

static const char key_rsa_public[] =
        "-----BEGIN PUBLIC KEY-----\n"
        "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA7hRPcRRPHzGE6NXeyO4O\n"
        "dOhb1IifkP/I8MrOgWBh5EHzz7EHRycG5kEPFWVE6ndmGHuXt7I5H8q8eXovJnFN\n"
        "jpOCuWyJrpnBwzNkDVPDjTlWLi7yv7o9WnWxJejsUxQP5cprGCrSsRpGNLZjvI39\n"
        "I9eR1fy8MHtcTUT6USt+LsVUu28LU5vACassaVQnaVijYPknfSMPTEp39xdIC/AM\n"
        "LDsyY1sjAsYU9OaGoLO/bsm37uTyA6IVENGKUxyc5F0a/yYM1HalEWBkFu0HbmaF\n"
        "JnSnwEGNA3/bkjTW1ZVbsJ4SMMZNvOnDbsFOX38koVaQNRqUU2vkwCHB14qJPoir\n"
        "CwIDAQAB\n"
        "-----END PUBLIC KEY-----\n";

static const char key_rsa1024_public[] =
        "-----BEGIN PUBLIC KEY-----\n"
        "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDUbG+eaz9JwgUNZxP1Mu8z+XkK\n"
        "3V17YBaIkrwk8e2UQKHVEgq695WcGQ2p8OIeWGxq/pXPhAY6NvY5XaajrmkTldbL\n"
        "waetkNBzTzRM3fXDk3NdpN6/mtEia6yAd21P7eMGjT10Mfe586fRV/phyaUd/ZU8\n"
        "ikWN0WI22Wwlo4PgbQIDAQAB\n"
        "-----END PUBLIC KEY-----\n";

static const char key_ec_public[] =
        "-----BEGIN PUBLIC KEY-----\n"
        "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEac0VimK8V+A62IBuBpYf5rxYbt8/\n"
        "VUdEUDCc2HiO3TCEszKTLW6//ZDPQXts350cg767iptw62JJUTtq4ot8sg==\n"
        "-----END PUBLIC KEY-----\n";

static const char key_ec384_public[] =
        "-----BEGIN PUBLIC KEY-----\n"
        "MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEKu6xJk8RYuq5jO/5VGmBunzEd7ra8e+e\n"
        "1JGIhXm+NpNBx7THSLr/JHzFtRQKSrT8l9cbQNKXZT+vuybIaFJEnU42HJxwyNWS\n"
        "/L+AAQa7wQJz5lucaG9qIozIdRSaJBQ7\n"
        "-----END PUBLIC KEY-----\n";

static const char key_ed_public[] = "-----BEGIN PUBLIC KEY-----\n"
                                    "MCowBQYDK2VwAyEAdI6VJS7o+fHsRICL6kWnTSCZB98qJrZr0/wR6i8IInU=\n"
                                    "-----END PUBLIC KEY-----\n";

static const char pyjwt_hs256[] =
        "eyJhbGciOiJIUzI1NiIsImtpZCI6ImstSFMyNTYiLCJ0eXAiOiJKV1QifQ.eyJpc3MiOiJodHRwczovL"
        "3B5and0LnRlc3QiLCJzdWIiOiJhbGljZSIsImF1ZCI6ImxlYXQiLCJleHAiOjQxMDI0NDQ4MDB9._ycD"
        "bnaZVukyz7wLDaFbCyVtHjWG9jd5wbdBYbJf2Wc";

static const char pyjwt_rs256[] =
        "eyJhbGciOiJSUzI1NiIsImtpZCI6ImstUlMyNTYiLCJ0eXAiOiJKV1QifQ.eyJpc3MiOiJodHRwczovL"
        "3B5and0LnRlc3QiLCJzdWIiOiJhbGljZSIsImF1ZCI6ImxlYXQiLCJleHAiOjQxMDI0NDQ4MDB9.XzWw"
        "LVpPW6I_heIo4uhWPDzmMRpSNFvQpjWYalGbvwkvjnUysoP3RWvjYMYpnUNK4orS16K5-BAWFYGT_zVo"
        "cCL0cQdm-dVoCCvuqeQOa5wrB-2vWq9ENQZZX6icZ4YtvnQL0NYkPDKgdv1q9Y5n2jV1X-cYkACjmCo-"
        "GiZbcwSninNsRAos1nTsASxOH9RMeut2ei-yZeNDWYojc3RrklRwHWyzS4zJxaB60h42ZENfZWGQuZnG"
        "tiTfdzs-J1rkN1U7zPGcckUzYb7Z1h2oUWTfZokLEhln0xCLijrjLnXTe1_zNHDsUPPHscmlYY0urBT1"
        "jVOm36VVl6lMGE_Vkw";

static const char pyjwt_ps256[] =
        "eyJhbGciOiJQUzI1NiIsImtpZCI6ImstUFMyNTYiLCJ0eXAiOiJKV1QifQ.eyJpc3MiOiJodHRwczovL"
        "3B5and0LnRlc3QiLCJzdWIiOiJhbGljZSIsImF1ZCI6ImxlYXQiLCJleHAiOjQxMDI0NDQ4MDB9.buKu"
        "lnG7WLJdO_7NKN9oqq9Q9fhFP9D7gdhVgEnUUjDaQw5z8ephckMxy1XfQPUqsZwSxXnt_z3nFsOujv_M"
        "SCc0kFCaHlXFuOgUwdZ31U_l-sX0j0E3Q07j7H_EAjgwqQfvmCcz5xL1G1l0fIxXqSYd4tCDv7khgVDl"
        "rX8m1AgWJYcEFHdEDXBjU66rHKscNaCXC3B2OYAo2Q8tuNjZMblp18trGsSnn_HpnslWUr90u9FYGlfv"
        "dgqKKEJGJbRPsTpUD8JzP9JR0YUcTXlPh0Rp3J4ZcMCcV03aV2P6pbNBLUUl69u5x_ZabP6jNHxWd0Ru"
        "ZRXhCLD9nSeZXyRCxQ";

static const char pyjwt_es256[] =
        "eyJhbGciOiJFUzI1NiIsImtpZCI6ImstRVMyNTYiLCJ0eXAiOiJKV1QifQ.eyJpc3MiOiJodHRwczovL"
        "3B5and0LnRlc3QiLCJzdWIiOiJhbGljZSIsImF1ZCI6ImxlYXQiLCJleHAiOjQxMDI0NDQ4MDB9.A7Bo"
        "tdrMmhMzXG0V4_bQYtS02vTfmAGn4l877a0MHx0LzkUDOSIc6jKbztXp6y2oxBspWa1puzwIpA1-DcK6"
        "oA";

static const char pyjwt_eddsa[] =
        "eyJhbGciOiJFZERTQSIsImtpZCI6ImstRWREU0EiLCJ0eXAiOiJKV1QifQ.eyJpc3MiOiJodHRwczovL"
        "3B5and0LnRlc3QiLCJzdWIiOiJhbGljZSIsImF1ZCI6ImxlYXQiLCJleHAiOjQxMDI0NDQ4MDB9.pzQN"
        "2psBFxQt4dv1vEEV_dClZBRkg7ZeowPvBEbFJrIepn-gGxhjL4DO2s_HUzwR61w9GY-u_-iWPwPE9PAn"
        "Cw";

#pragma GCC diagnostic pop

#endif
