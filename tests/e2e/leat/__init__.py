"""What the end-to-end tests and the kill checker share: servers, certificates, tokens, raw MQTT."""
