package source

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	certificateBlock = "CERTIFICATE"
	privateKeyBlock  = "PRIVATE KEY"
	trialSecret      = "Secret" // the header of a trial's key that has what the endpoint's secret would be
	// chainMax bounds the certificates of one delivery's chain.
	chainMax = 8
	// rsaBitsMin is the shortest key that is believed, and what a trial's key has.
	rsaBitsMin = 2048
	// vendorURLMax bounds the URL that a delivery names, in bytes. That of a subscription to SNS has some 700.
	vendorURLMax = 2048
)

//go:embed intermediates.pem
var intermediatesPEM []byte

// knownIntermediates help to build a chain where a source publishes its leaf alone. They are not trusted themselves. That
// the file can be read is what a test says.
var knownIntermediates, _ = parseCertificates(intermediatesPEM)

// parseCertificates reads PEM that holds certificates and nothing else in blocks.
func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for len(bytes.TrimSpace(text)) > 0 {
		block, rest := pem.Decode(text)
		if block == nil {
			break // comments after the last block
		}
		if block.Type != certificateBlock || len(all) == chainMax {
			return nil, fmt.Errorf("expected at most %d certificates in PEM", chainMax)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse a certificate: %w", err)
		}
		all, text = append(all, certificate), rest
	}
	if len(all) == 0 {
		return nil, errors.New("expected a certificate in PEM")
	}
	return all, nil
}

// signerKey gives the RSA key of the certificate of a delivery, after its chain held at the arrival and it was issued to
// one of the names. Its error is a *Refusal.
func signerKey(r Request, names ...string) (*rsa.PublicKey, error) {
	if len(r.Certificate) == 0 {
		return nil, refuse(ReasonCertificateMissing, "the certificate that signed this could not be had")
	}
	chain, err := parseCertificates(r.Certificate)
	if err != nil {
		return nil, refuse(ReasonCertificateUntrusted, "the certificate that signed this cannot be read")
	}
	if r.ReceivedAt.IsZero() { // which crypto/x509 would take for now
		return nil, refuse(ReasonCertificateUntrusted, "without the time of arrival no certificate is valid")
	}
	between := x509.NewCertPool()
	for _, certificate := range slices.Concat(chain[1:], knownIntermediates) {
		between.AddCert(certificate)
	}
	leaf := chain[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: r.Roots, Intermediates: between, CurrentTime: r.ReceivedAt}); err != nil {
		return nil, refuse(ReasonCertificateUntrusted, "the certificate that signed this is not valid at the time, or its chain ends in no trusted root")
	}
	if !slices.ContainsFunc(names, func(name string) bool { return leaf.VerifyHostname(name) == nil }) {
		return nil, refuse(ReasonCertificateUntrusted, "the certificate that signed this was issued to somebody else")
	}
	key, ok := leaf.PublicKey.(*rsa.PublicKey)
	if !ok || key.N.BitLen() < rsaBitsMin {
		return nil, refuse(ReasonCertificateUntrusted, fmt.Sprintf("the certificate that signed this must have an RSA key of at least %d bits", rsaBitsMin))
	}
	return key, nil
}

// verifyRSA checks a PKCS #1 v1.5 signature.
func verifyRSA(key *rsa.PublicKey, algorithm crypto.Hash, content, signature []byte) bool {
	h := algorithm.New()
	h.Write(content)
	return rsa.VerifyPKCS1v15(key, algorithm, h.Sum(nil), signature) == nil
}

// decodeRSASignature reads the base64 of a signature.
func decodeRSASignature(text, place string) ([]byte, error) {
	signature, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(signature) < rsaBitsMin/8 {
		return nil, refuse(ReasonSignatureMalformed, place+" must be the base64 of an RSA signature")
	}
	return signature, nil
}

// vendorURL parses the URL of a vendor's own host that a delivery names: https, without user, port or fragment, and
// written so that every parser reads the same host.
func vendorURL(text string) (*url.URL, bool) {
	if len(text) > vendorURLMax || strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c >= '\x7f' || c == '\\' }) {
		return nil, false
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.User != nil || u.Opaque != "" || u.Fragment != "" || u.Host == "" || !isHostName(u.Host) {
		return nil, false
	}
	return u, strings.HasPrefix(text, "https://"+u.Host+"/")
}

// isHostName reports whether a host is of lower-case letters, digits, hyphens and dots, so that it has no port either.
func isHostName(host string) bool {
	return !strings.ContainsFunc(host, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.'
	})
}

// rsaTrial is a key with a certificate and a root of its own, for a sample.
type rsaTrial struct {
	key   *pem.Block
	leaf  []byte // PEM
	roots *x509.CertPool
}

// newRSATrial makes a root, which forgets its key, and a leaf for a name. They are valid for so long that no clock is needed.
func newRSATrial(name string) (rsaTrial, error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return rsaTrial{}, fmt.Errorf("make the key of a trial's root: %w", err)
	}
	leafKey, err := rsa.GenerateKey(rand.Reader, rsaBitsMin)
	if err != nil {
		return rsaTrial{}, fmt.Errorf("make the key of a trial: %w", err)
	}
	begin, end := time.Unix(0, 0), time.Date(2999, time.January, 1, 0, 0, 0, 0, time.UTC)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Sluice trial root"}, NotBefore: begin, NotAfter: end,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		return rsaTrial{}, fmt.Errorf("make a trial's root: %w", err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: begin, NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, leafKey.Public(), rootKey)
	if err != nil {
		return rsaTrial{}, fmt.Errorf("make a trial's certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		return rsaTrial{}, fmt.Errorf("write a trial's key: %w", err)
	}
	trusted, err := x509.ParseCertificate(rootDER)
	if err != nil {
		return rsaTrial{}, fmt.Errorf("read a trial's root: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(trusted)
	return rsaTrial{
		key:   &pem.Block{Type: privateKeyBlock, Bytes: keyDER},
		leaf:  pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: leafDER}),
		roots: roots,
	}, nil
}

// trial is the key as one of the endpoint's whose secret is verify. The secret stands with the key, for what is signed.
func (t rsaTrial) trial(verify string) Trial {
	block := *t.key
	if verify != "" {
		block.Headers = map[string]string{trialSecret: verify}
	}
	return Trial{Sign: string(pem.EncodeToMemory(&block)), Verify: verify, Certificate: t.leaf, Roots: t.roots}
}

// signRSA signs with the key of a trial, in base64. What is signed may depend on the secret that stands with it.
func signRSA(trial string, algorithm crypto.Hash, content func(secret string) []byte) (string, error) {
	block, _ := pem.Decode([]byte(trial))
	if block == nil || block.Type != privateKeyBlock {
		return "", refuse(ReasonSecretMissing, "only the source can sign with the endpoint's own key; a sample needs the key of a trial")
	}
	parsedKey, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsedKey.(*rsa.PrivateKey)
	if err != nil || !ok {
		return "", refuse(ReasonSecretMissing, "the key of a trial must be RSA in PKCS #8")
	}
	h := algorithm.New()
	h.Write(content(block.Headers[trialSecret]))
	signature, err := rsa.SignPKCS1v15(nil, key, algorithm, h.Sum(nil))
	if err != nil {
		return "", fmt.Errorf("sign with the key of a trial: %w", err)
	}
	return base64.StdEncoding.EncodeToString(signature), nil
}
