package source_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/api/source"
)

// issued is a certificate by a root of its own, as a source could publish it.
type issued struct {
	key         any // *rsa.PrivateKey or *ecdsa.PrivateKey
	root        *x509.Certificate
	rootKey     *ecdsa.PrivateKey
	certificate []byte
	roots       *x509.CertPool
}

// issue makes a certificate for a name; change alters it before it is signed.
func issue(t *testing.T, name string, key any, change func(leaf *x509.Certificate)) issued {
	t.Helper()
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test root"}, NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	require.NoError(t, err)
	root, err = x509.ParseCertificate(rootDER)
	require.NoError(t, err)
	made := issued{key: key, root: root, rootKey: rootKey, roots: x509.NewCertPool()}
	made.roots.AddCert(root)
	made.certificate = made.sign(t, name, key, root, change)
	return made
}

func (i issued) sign(t *testing.T, name string, key any, parent *x509.Certificate, change func(leaf *x509.Certificate)) []byte {
	t.Helper()
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if change != nil {
		change(leaf)
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, parent, publicOf(t, key), i.rootKey)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func publicOf(t *testing.T, key any) any {
	t.Helper()
	switch k := key.(type) {
	case *rsa.PrivateKey:
		return k.Public()
	case *ecdsa.PrivateKey:
		return k.Public()
	default:
		t.Fatal("no such key")
		return nil
	}
}

// trialKey is the private key inside what Trial gives to sign with.
func trialKey(t *testing.T, trial source.Trial) *rsa.PrivateKey {
	t.Helper()
	block, _ := pem.Decode([]byte(trial.Sign))
	require.NotNil(t, block)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	require.NoError(t, err)
	private, ok := key.(*rsa.PrivateKey)
	require.True(t, ok)
	return private
}

// certified are the sources with certificates, and a name that theirs is issued to.
var certified = map[string]string{"aws_sns": "sns.amazonaws.com", "paypal": "messageverificationcerts.paypal.com"}

// A certificate must be valid when the delivery arrives, end in a root, be issued to the source, and have an RSA key of a
// sound length: whatever signed the delivery otherwise.
func TestCertificateIsHeldToItsChain(t *testing.T) {
	t.Parallel()
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	for name, host := range certified {
		all := subjects(t)
		for _, s := range all {
			if s.Name != name {
				continue
			}
			t.Run(s.title, func(t *testing.T) {
				t.Parallel()
				key := trialKey(t, s.keys[0])
				good := issue(t, host, key, nil)
				verify := func(certificate []byte, roots *x509.CertPool, at time.Time) error {
					r := s.deliver(t, s.Samples[0], "evt_0001", s.keys[0])
					r.Certificate, r.Roots, r.ReceivedAt = certificate, roots, at
					_, err := s.Verify(r, s.secrets(), s.settings)
					return err
				}
				require.NoError(t, verify(good.certificate, good.roots, noon))
				require.NoError(t, verify(append([]byte("# a comment\n"), good.certificate...), good.roots, noon))
				requireReason(t, verify(nil, good.roots, noon), source.ReasonCertificateMissing)

				between := good.intermediate(t, host, key)
				require.NoError(t, verify(between, good.roots, noon), "a chain in the file")

				narrow := func(l *x509.Certificate) { l.NotAfter = noon.Add(-time.Second) }
				other := issue(t, host, key, nil)
				for title, c := range map[string]struct {
					certificate []byte
					roots       *x509.CertPool
				}{
					"AnotherRoot":   {good.certificate, other.roots},
					"NoRoots":       {good.certificate, x509.NewCertPool()},
					"SystemRoots":   {good.certificate, nil},
					"Expired":       {good.sign(t, host, key, good.root, narrow), good.roots},
					"NotYet":        {good.sign(t, host, key, good.root, func(l *x509.Certificate) { l.NotBefore = noon.Add(time.Second) }), good.roots},
					"SomebodyElse":  {good.sign(t, "sns.example.com", key, good.root, nil), good.roots},
					"NameBefore":    {good.sign(t, "x"+host, key, good.root, nil), good.roots},
					"NameInCNAlone": {good.sign(t, host, key, good.root, func(l *x509.Certificate) { l.DNSNames = []string{"example.com"} }), good.roots},
					"ForClients": {good.sign(t, host, key, good.root, func(l *x509.Certificate) {
						l.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
					}), good.roots},
					"ShortKey":    {good.sign(t, host, short, good.root, nil), good.roots},
					"NoRSA":       {good.sign(t, host, curve, good.root, nil), good.roots},
					"NoPEM":       {[]byte("certificate"), good.roots},
					"Key":         {[]byte(s.keys[0].Sign), good.roots},
					"BrokenPEM":   {[]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), good.roots},
					"EndlessFile": {[]byte(strings.Repeat(string(good.certificate), 9)), good.roots},
				} {
					requireReason(t, verify(c.certificate, c.roots, noon), source.ReasonCertificateUntrusted)
					require.NotEmpty(t, title)
				}
				requireReason(t, verify(other.sign(t, host, mustRSA(t), other.root, nil), other.roots, noon), source.ReasonSignatureMismatch)
			})
		}
	}
}

func mustRSA(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	return key
}

// intermediate gives a leaf and the authority between it and the root, in one file.
func (i issued) intermediate(t *testing.T, name string, key *rsa.PrivateKey) []byte {
	t.Helper()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "Test authority"}, NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, authority, i.root, authorityKey.Public(), i.rootKey)
	require.NoError(t, err)
	authority, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	leaf := issued{rootKey: authorityKey}.sign(t, name, key, authority, nil)
	return append(leaf, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
}

// What is built in must be authorities, each once, and none that is a root itself.
func TestBuiltInIntermediatesAreAuthorities(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("intermediates.pem")
	require.NoError(t, err)
	seen := map[string]bool{}
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		require.NoError(t, err)
		require.True(t, certificate.IsCA)
		require.NotEqual(t, certificate.Subject.String(), certificate.Issuer.String())
		require.False(t, seen[certificate.Subject.CommonName])
		require.Contains(t, string(text[:strings.Index(string(text), "-----BEGIN")]), "# "+certificate.Subject.CommonName+", issued by "+certificate.Issuer.CommonName+", until "+certificate.NotAfter.Format(time.DateOnly))
		seen[certificate.Subject.CommonName] = true
		text = rest
	}
	require.Len(t, seen, 6)
}

func TestOnlyTheSourcesOwnCertificateURLIsFetched(t *testing.T) {
	t.Parallel()
	const (
		file = "/SimpleNotificationService-7506a1e35b36ef5a444dd1a8e7cc3ed8.pem"
		cert = "/v1/notifications/certs/CERT-360caa42-fca2a594-b0d12406"
	)
	for _, c := range []struct {
		source, url string
		good        bool
	}{
		{"aws_sns", "https://sns.us-east-1.amazonaws.com" + file, true},
		{"aws_sns", "http://sns.us-east-1.amazonaws.com" + file, false},
		{"aws_sns", "HTTPS://sns.us-east-1.amazonaws.com" + file, false},
		{"aws_sns", "https://SNS.us-east-1.amazonaws.com" + file, false},
		{"aws_sns", "https://sns.us-east-2.amazonaws.com" + file, false},
		{"aws_sns", "https://sns.us-east-1.amazonaws.com.cn" + file, false},
		{"aws_sns", "https://sns.us-east-1.amazonaws.com:443" + file, false},
		{"aws_sns", "https://sns.us-east-1.amazonaws.com:8443" + file, false},
		{"aws_sns", "https://user@sns.us-east-1.amazonaws.com" + file, false},
		{"aws_sns", "https://sns.us-east-1.amazonaws.com@evil.example" + file, false},
		{"aws_sns", "https://evil.example\\@sns.us-east-1.amazonaws.com" + file, false},
		{"aws_sns", "https://evil.example#@sns.us-east-1.amazonaws.com" + file, false},
		{"aws_sns", "https://sns.us-east-1.amazonaws.com.evil.example" + file, false},
		{"aws_sns", "https://sns.us-east-1.amazonaws.com./" + file[1:], false},
		{"aws_sns", "https://evil.s3.amazonaws.com" + file, false},
		{"aws_sns", "https://sns.us-east-1.amazonaws.com" + file + "?x=1", false},
		{"aws_sns", "https://sns.us-east-1.amazonaws.com" + file + "?", false},
		{"aws_sns", "https://sns.us-east-1.amazonaws.com" + file + "#x", false},
		{"aws_sns", "https://sns.us-east-1.amazonaws.com/x/.." + file, false},
		{"aws_sns", "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-7506.pem", false},
		{"aws_sns", "https://sns.us-east-1.amazonaws.com/%53impleNotificationService-7506a1e35b36ef5a444dd1a8e7cc3ed8.pem", false},
		{"aws_sns", "https://sns.us-east-1.amazonaws.com" + file + "\n", false},
		{"aws_sns", " https://sns.us-east-1.amazonaws.com" + file, false},
		{"aws_sns", "//sns.us-east-1.amazonaws.com" + file, false},
		{"aws_sns", "", false},
		{"paypal", "https://api.paypal.com" + cert, true},
		{"paypal", "https://api.sandbox.paypal.com" + cert, true},
		{"paypal", "https://paypal.com" + cert, false},
		{"paypal", "https://notpaypal.com" + cert, false},
		{"paypal", "https://api.paypal.com.evil.example" + cert, false},
		{"paypal", "https://evil.example/.paypal.com" + cert, false},
		{"paypal", "https://API.paypal.com" + cert, false},
		{"paypal", "http://api.paypal.com" + cert, false},
		{"paypal", "https://api.paypal.com:444" + cert, false},
		{"paypal", "https://x:y@api.paypal.com" + cert, false},
		{"paypal", "https://api.paypal.com" + cert + "?x=1", false},
		{"paypal", "https://api.paypal.com/v1/notifications/certs/../../redirect", false},
		{"paypal", "https://api.paypal.com/v1/notifications/certs/%2e%2e/%2e%2e/redirect", false},
		{"paypal", "https://api.paypal.com/other", false},
	} {
		s, _ := source.Get(c.source)
		got, err := s.CertificateURL(certificateRequest(t, c.url))
		require.Equal(t, c.good, err == nil, "%s %s", c.source, c.url)
		if c.good {
			require.Equal(t, c.url, got)
			continue
		}
		requireReason(t, err, source.ReasonSignatureMalformed, source.ReasonSignatureMissing)
	}
	paypal, _ := source.Get("paypal")
	r := certificateRequest(t, "https://api.paypal.com"+cert)
	r.Header.Add("Paypal-Cert-Url", "https://api.paypal.com"+cert)
	_, err := paypal.CertificateURL(r)
	requireReason(t, err, source.ReasonSignatureMalformed)
}

// certificateRequest is a delivery that names the URL in the way of either source.
func certificateRequest(t *testing.T, text string) source.Request {
	t.Helper()
	body, err := json.Marshal(map[string]string{"Type": "Notification", "TopicArn": snsTopic, "SigningCertURL": text})
	require.NoError(t, err)
	return source.Request{Header: headers("Paypal-Cert-Url", text), Body: body, ReceivedAt: noon}
}

// FuzzCertificateURL: no URL is fetched but one of the source's own hosts, over https, and all parsers agree on it.
func FuzzCertificateURL(f *testing.F) {
	for _, seed := range []string{
		"https://sns.us-east-1.amazonaws.com/SimpleNotificationService-7506a1e35b36ef5a444dd1a8e7cc3ed8.pem",
		"https://api.paypal.com/v1/notifications/certs/CERT-360caa42", "https://a@b.paypal.com:1/v1/notifications/certs/", "https://[::1].paypal.com/", "https:\\\\x.paypal.com/",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for name, suffix := range map[string]string{"aws_sns": "sns.us-east-1.amazonaws.com", "paypal": ".paypal.com"} {
			s, _ := source.Get(name)
			got, err := s.CertificateURL(certificateRequest(t, text))
			if err != nil {
				var refusal *source.Refusal
				require.ErrorAs(t, err, &refusal)
				continue
			}
			require.Equal(t, text, got)
			u, err := url.Parse(got)
			require.NoError(t, err)
			require.Equal(t, "https", u.Scheme)
			require.True(t, strings.HasSuffix(u.Hostname(), suffix), got)
			require.Equal(t, u.Hostname(), u.Host)
			require.Nil(t, u.User)
			require.True(t, strings.HasPrefix(got, "https://"+u.Host+"/"))
		}
	})
}
