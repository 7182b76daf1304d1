package action

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The symmetric secrets of the Standard Webhooks specification: whsec_ and the base64 of 24 to 64 random bytes.
const (
	webhookKeyBytesMax  = 64
	webhookKeyBytesMin  = 24
	webhookKeyBytesNew  = 32
	webhookSecretPrefix = "whsec_"
	webhookSecretsMax   = 2 // the one in use, and the one that is on its way in or out
)

var errWebhookSecret = fmt.Errorf("expected %s and the base64 of %d to %d random bytes, or two of these with a space between",
	webhookSecretPrefix, webhookKeyBytesMin, webhookKeyBytesMax)

// newWebhookSecret makes a secret of 256 bits.
func newWebhookSecret() (string, error) {
	key := make([]byte, webhookKeyBytesNew)
	if _, err := rand.Read(key); err != nil {
		return "", fmt.Errorf("make a webhook secret: %w", err)
	}
	return webhookSecretPrefix + base64.StdEncoding.EncodeToString(key), nil
}

// webhookKeys reads the keys of a secret. Two secrets with a space between sign with both, so that a tenant can change the
// secret of a receiver that knows one at a time.
func webhookKeys(secret string) ([][]byte, error) {
	written := strings.Split(secret, " ")
	if len(written) > webhookSecretsMax {
		return nil, errWebhookSecret
	}
	var keys [][]byte
	for _, one := range written {
		encoded, ok := strings.CutPrefix(one, webhookSecretPrefix)
		if !ok || strings.ContainsAny(encoded, "\r\n") { // the decoder skips line ends
			return nil, errWebhookSecret
		}
		key, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || len(key) < webhookKeyBytesMin || len(key) > webhookKeyBytesMax {
			return nil, errWebhookSecret
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// webhookSignatures is the value of the webhook-signature header: for each key "v1," and the base64 of HMAC-SHA256 over id,
// unix seconds and body, with full stops between.
func webhookSignatures(keys [][]byte, id string, at time.Time, body []byte) string {
	signatures := make([]string, 0, len(keys))
	for _, key := range keys {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
		mac.Write(body)
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(signatures, " ")
}
