package source

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
)

// matchPublic looks for a secret that is a public key under which the signature holds. A secret that cannot be read is
// passed over and never matches. Nothing here is secret, so it ends at the first that matches. It answers with the index, or
// a *Refusal.
func matchPublic[Key any](secrets []string, read func(string) (Key, error), holds func(Key) bool) (int, error) {
	usable := false
	for i, secret := range secrets {
		key, err := read(secret)
		if err != nil {
			continue
		}
		usable = true
		if holds(key) {
			return i, nil
		}
	}
	if !usable {
		return -1, refuse(ReasonSecretMissing, "the endpoint has no usable public key")
	}
	return -1, refuse(ReasonSignatureMismatch, "no public key of the endpoint holds for this signature over these bytes")
}

// ed25519Public reads a public key of 64 hex digits.
func ed25519Public(text string) (ed25519.PublicKey, error) {
	key, ok := decodeHex(text, ed25519.PublicKeySize)
	if !ok {
		return nil, errors.New("expected a public key of 64 hex digits")
	}
	return ed25519.PublicKey(key), nil
}

// ed25519Private reads a private key from the hex of its seed, or of the seed and the public key after it.
func ed25519Private(text string) (ed25519.PrivateKey, error) {
	if seed, ok := decodeHex(text, ed25519.SeedSize); ok {
		return ed25519.NewKeyFromSeed(seed), nil
	}
	key, ok := decodeHex(text, ed25519.PrivateKeySize)
	if !ok {
		return nil, errors.New("expected a private key of 64 or 128 hex digits")
	}
	return ed25519.NewKeyFromSeed(key[:ed25519.SeedSize]), nil // the public half is made anew: a wrong one would give the seed away
}

// ed25519Trial makes a pair of keys: the seed and the public key, in hex.
func ed25519Trial() (Trial, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Trial{}, fmt.Errorf("make an ed25519 key: %w", err)
	}
	return Trial{Sign: hex.EncodeToString(private.Seed()), Verify: hex.EncodeToString(public)}, nil
}

// p256Public reads a public key on the curve P-256 from the base64 of its PKIX form.
func p256Public(text string) (*ecdsa.PublicKey, error) {
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("expected a public key in base64")
	}
	parsed, err := x509.ParsePKIXPublicKey(der) // its error may quote the key, and says no more to a person
	key, ok := parsed.(*ecdsa.PublicKey)
	if err != nil || !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("expected the base64 of a P-256 public key (PKIX)")
	}
	return key, nil
}

// p256Private reads a private key on the curve P-256 from the base64 of its PKCS #8 form.
func p256Private(text string) (*ecdsa.PrivateKey, error) {
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("expected a private key in base64")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("expected the base64 of a P-256 private key (PKCS #8)")
	}
	return key, nil
}

// p256Trial makes a pair of keys: the private one in PKCS #8, the public one in PKIX, both in base64.
func p256Trial() (Trial, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Trial{}, fmt.Errorf("make a P-256 key: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Trial{}, fmt.Errorf("write a P-256 private key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return Trial{}, fmt.Errorf("write a P-256 public key: %w", err)
	}
	return Trial{Sign: base64.StdEncoding.EncodeToString(private), Verify: base64.StdEncoding.EncodeToString(public)}, nil
}
