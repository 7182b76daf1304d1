package jobs

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

// The kinds of credentials with which GitHub is asked for its deliveries. A token reads the hooks of a repository or an organisation; the hook of an
// app answers to nothing but a JWT that the app's own key has signed (docs.github.com/en/rest/apps/webhooks).
const (
	GitHubTokenKind = "github"
	GitHubAppKind   = "github_app"
)

// GitHubKinds are these kinds.
func GitHubKinds() []string { return []string{GitHubTokenKind, GitHubAppKind} }

const (
	githubTokenBytesMin = 8
	githubTokenBytesMax = 512
	// githubAppBytesMax has room for a key of 8192 bits in PEM.
	githubAppBytesMax   = 8 << 10
	githubAppIDBytesMax = 64
	githubKeyBitsMin    = 2048
	// A JWT may be good for ten minutes and should begin a minute ago, since clocks differ (docs.github.com/en/apps/creating-github-apps/
	// authenticating-with-a-github-app/generating-a-json-web-token-jwt-for-a-github-app). Both ends lie a minute back, so that a clock of GitHub that
	// is behind ours does not find it too long.
	jwtBefore = time.Minute
	jwtFor    = 10 * time.Minute
)

// CheckGitHubSecret says what is wrong with a secret of one of GitHubKinds, without repeating it.
func CheckGitHubSecret(kind, secret string) error {
	if kind == GitHubAppKind {
		_, _, err := githubApp(secret)
		return err
	}
	// A token goes into a header, where a blank or a line's end would be a mistake of copying.
	if len(secret) < githubTokenBytesMin || len(secret) > githubTokenBytesMax || strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("expected %d to %d printable characters without blanks", githubTokenBytesMin, githubTokenBytesMax)
	}
	return nil
}

// githubApp reads "<app id>:<private key as PEM>".
func githubApp(secret string) (id string, key *rsa.PrivateKey, err error) {
	const expected = "expected the app's id, a colon, and its private key as GitHub gives it, -----BEGIN RSA PRIVATE KEY----- and so on"
	id, text, _ := strings.Cut(secret, ":")
	if id = strings.TrimSpace(id); id == "" || len(id) > githubAppIDBytesMax || len(secret) > githubAppBytesMax || strings.ContainsFunc(id, notAppID) {
		return "", nil, errors.New(expected)
	}
	block, _ := pem.Decode([]byte(strings.TrimSpace(text)))
	if block == nil {
		return "", nil, errors.New(expected)
	}
	// GitHub gives PKCS #1; who has converted his key has PKCS #8. The parsers' errors are not passed on: they speak of the key's inside.
	key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		parsed, _ := x509.ParsePKCS8PrivateKey(block.Bytes)
		var ok bool
		if key, ok = parsed.(*rsa.PrivateKey); !ok {
			return "", nil, errors.New(expected)
		}
	}
	if key.N.BitLen() < githubKeyBitsMin {
		return "", nil, fmt.Errorf("expected a private key of at least %d bits", githubKeyBitsMin)
	}
	return id, key, nil
}

// notAppID reports what the id of an app (123456) or its client id (Iv23li...) does not hold.
func notAppID(r rune) bool {
	return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '.' && r != '_' && r != '-'
}

// githubBearer is what a credential puts into the Authorization header.
func githubBearer(kind, secret string, now time.Time) (string, error) {
	if kind != GitHubAppKind {
		return secret, nil
	}
	id, key, err := githubApp(secret)
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{"iat": now.Add(-jwtBefore).Unix(), "exp": now.Add(jwtFor - jwtBefore).Unix(), "iss": id})
	if err != nil {
		return "", fmt.Errorf("write the claims of an app: %w", err)
	}
	signed := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(claims)
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		return "", fmt.Errorf("sign as an app: %w", err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}
