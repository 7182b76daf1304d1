package scripted

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// githubAppLifeMax is how far ahead an app's JWT may end (docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/
// generating-a-json-web-token-jwt-for-a-github-app).
const githubAppLifeMax = 10 * time.Minute

// authorized says whether the API takes an Authorization header.
func (g *GitHub) authorized(header string) bool {
	bearer, ok := strings.CutPrefix(header, "Bearer ")
	if !ok {
		return false
	}
	g.mu.Lock()
	token := g.token
	g.mu.Unlock()
	return token != "" && bearer == token || g.config.AppKey != nil && g.isApp(bearer)
}

// isApp checks a JWT: RS256 by the app's key, issued by the app, begun, not ended, and not too long.
func (g *GitHub) isApp(token string) bool {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return false
	}
	var head struct{ Alg string }
	var claims struct {
		Iss string
		Iat int64
		Exp int64
	}
	if !readJWT(parts[0], &head) || head.Alg != "RS256" || !readJWT(parts[1], &claims) {
		return false
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err != nil || rsa.VerifyPKCS1v15(g.config.AppKey, crypto.SHA256, sum[:], signature) != nil {
		return false
	}
	now := g.config.Now()
	return claims.Iss == g.config.AppID && claims.Iat <= now.Unix() && claims.Exp > now.Unix() && claims.Exp <= now.Add(githubAppLifeMax).Unix()
}

func readJWT(part string, into any) bool {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	return err == nil && json.Unmarshal(raw, into) == nil
}
