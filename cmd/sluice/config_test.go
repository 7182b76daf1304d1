package main

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
)

const testMasterKey = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

// configured is the Config of a command line, and what was wrong with it.
func configured(t *testing.T, e env, args ...string) (Config, []string) {
	t.Helper()
	var cli commands
	found := newSettings(e.lookup)
	parser, err := kong.New(&cli, found.options()...)
	require.NoError(t, err)
	parsed, err := parser.Parse(args)
	require.NoError(t, err)
	return cli.Config, found.check(parsed)
}

// complete is an environment in which every command can run.
func complete() env {
	return env{
		"DATABASE_URL": "postgres://sluice:c4n4ry@db/sluice", "SLUICE_MASTER_KEY": testMasterKey, "SLUICE_PUBLIC_URL": "https://hooks.example.com/",
	}
}

func TestConfigDefaults(t *testing.T) {
	t.Parallel()
	serve, faults := configured(t, complete(), "serve")
	require.Empty(t, faults)
	require.Equal(t, "postgres://sluice:c4n4ry@db/sluice", serve.DatabaseURL.Reveal())
	require.Equal(t, ":8080", serve.Listen)
	require.Equal(t, ":9090", serve.MetricsListen)
	require.Equal(t, "https://hooks.example.com", serve.PublicURL, "a slash at the end is taken off")
	require.Equal(t, 16, serve.DBConns)
	require.Equal(t, 30*time.Second, serve.ShutdownTimeout)
	require.Equal(t, slog.LevelInfo, serve.LogLevel)
	require.Equal(t, "json", serve.LogFormat)
	require.InDelta(t, 1, serve.TraceRatio, 0)
	require.False(t, serve.AllowLoopback)
	want, err := hex.DecodeString(testMasterKey)
	require.NoError(t, err)
	require.Equal(t, want, serve.MasterKey.bytes())

	work, faults := configured(t, complete(), "work")
	require.Empty(t, faults)
	require.Equal(t, []any{1000, 32, 30 * time.Second, 5 * time.Second, 2 * time.Minute, 15 * time.Second},
		[]any{work.RunWorkers, work.ActionWorkers, work.Lease, work.SweepEvery, work.ModelTimeout, work.ActionTimeout})
}

func TestConfigFlagsWinOverTheEnvironment(t *testing.T) {
	t.Parallel()
	e := complete()
	e["SLUICE_LEASE"], e["SLUICE_ALLOW_LOOPBACK"], e["SLUICE_LOG_LEVEL"] = "40s", "true", "DEBUG"
	c, faults := configured(t, e, "work")
	require.Empty(t, faults)
	require.Equal(t, 40*time.Second, c.Lease)
	require.True(t, c.AllowLoopback)
	require.Equal(t, slog.LevelDebug, c.LogLevel)

	// What is on the command line is not looked up: a bad variable under it is no fault.
	e["SLUICE_LEASE"] = "nonsense"
	c, faults = configured(t, e, "work", "--lease", "50s", "--allow-loopback=false", "--trace-sql")
	require.Empty(t, faults)
	require.Equal(t, 50*time.Second, c.Lease)
	require.False(t, c.AllowLoopback)
	require.True(t, c.TraceSQL)
}

func TestConfigFaultsAllAtOnce(t *testing.T) {
	t.Parallel()
	const canary = "c4n4ryc4n4ry"
	e := env{
		"DATABASE_URL": "postgres://sluice:" + canary + "@db:port/sluice", "SLUICE_MASTER_KEY": canary, "SLUICE_LISTEN": "8080",
		"SLUICE_PUBLIC_URL": "hooks.example.com", "SLUICE_SHUTDOWN_TIMEOUT": "soon", "SLUICE_DB_CONNS": "1", "SLUICE_ALLOW_LOOPBACK": "perhaps",
		"SLUICE_LOG_LEVEL": "loud", "SLUICE_LOG_FORMAT": "xml", "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318", "SLUICE_TRACE_RATIO": "NaN",
		"SLUICE_LEASE": "not used by serve", "SLUICE_METRICS_LISTEN": ":99999",
	}
	code, out, err := sluice(t, e, "serve", "--drain-delay", "1h")
	require.Equal(t, 2, code)
	require.Empty(t, out)
	require.NotContains(t, err, canary)
	require.ElementsMatch(t, []string{
		`sluice: --drain-delay (SLUICE_DRAIN_DELAY): expected a duration from 0s to 5m, such as 0s, got "1h"`,
		`sluice: --database-url (DATABASE_URL): expected postgres://user:password@host:port/database`,
		`sluice: --db-conns (SLUICE_DB_CONNS): expected a number from 2 to 1000, got "1"`,
		`sluice: --listen (SLUICE_LISTEN): expected host:port or :port, such as :8080, got "8080"`,
		`sluice: --metrics-listen (SLUICE_METRICS_LISTEN): expected host:port or :port, such as :9090, got ":99999"`,
		`sluice: --public-url (SLUICE_PUBLIC_URL): expected an http or https URL without user, query and fragment, got "hooks.example.com"`,
		`sluice: --master-key (SLUICE_MASTER_KEY): expected 32 bytes in hex, base64 or base64url`,
		`sluice: --shutdown-timeout (SLUICE_SHUTDOWN_TIMEOUT): expected a duration from 1s to 30m, such as 30s, got "soon"`,
		`sluice: --allow-loopback (SLUICE_ALLOW_LOOPBACK): expected true or false, got "perhaps"`,
		`sluice: --log-level (SLUICE_LOG_LEVEL): expected one of debug, info, warn, error, got "loud"`,
		`sluice: --log-format (SLUICE_LOG_FORMAT): expected one of json, text, got "xml"`,
		`sluice: --otlp-endpoint (OTEL_EXPORTER_OTLP_ENDPOINT): expected an http or https URL without user, query and fragment, got "collector:4318"`,
		`sluice: --trace-ratio (SLUICE_TRACE_RATIO): expected a number from 0 to 1, got "NaN"`,
	}, strings.Split(strings.TrimSpace(err), "\n"))

	code, _, err = sluice(t, env{}, "serve")
	require.Equal(t, 2, code)
	require.Equal(t, `sluice: --database-url (DATABASE_URL): is missing; expected postgres://user:password@host:port/database
sluice: --public-url (SLUICE_PUBLIC_URL): is missing; expected an http or https URL without user, query and fragment
sluice: --master-key (SLUICE_MASTER_KEY): is missing; expected 32 bytes in hex, base64 or base64url
`, err)

	code, _, err = sluice(t, env{"DATABASE_URL": "x"}, "operator-key", "--database-url", "postgres://a:"+canary+"@b:c/d")
	require.Equal(t, 2, code)
	require.NotContains(t, err, canary)
}

func TestConfigFromFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	e := env{
		"DATABASE_URL_FILE": file("url", "postgres://sluice:c4n4ry@db/sluice\n"), "SLUICE_MASTER_KEY_FILE": file("key", "  "+testMasterKey+"\r\n"),
		"ANTHROPIC_API_KEY_FILE": file("anthropic", "sk-ant-test"), "OPENAI_API_KEY_FILE": file("openai", "\n"), "OPENAI_API_KEY": "",
		"SLUICE_LEASE_FILE": file("lease", "9s"),
	}
	c, faults := configured(t, e, "work")
	require.Empty(t, faults)
	require.Equal(t, "postgres://sluice:c4n4ry@db/sluice", c.DatabaseURL.Reveal())
	require.Equal(t, "sk-ant-test", c.AnthropicAPIKey.Reveal())
	require.True(t, c.OpenAIAPIKey.Empty(), "an empty file is an unset variable")
	require.Equal(t, 9*time.Second, c.Lease, "any variable has a file")

	e["DATABASE_URL"], e["OPENAI_API_KEY_FILE"] = "postgres://other:c4n4ry@db/sluice", filepath.Join(dir, "none")
	e["SLUICE_MASTER_KEY_FILE"] = file("wrong", "c4n4ry")
	e["ANTHROPIC_API_KEY_FILE"] = file("large", strings.Repeat("x", settingBytesMax+1))
	_, faults = configured(t, e, "work")
	require.Equal(t, []string{
		"--database-url (DATABASE_URL): DATABASE_URL and DATABASE_URL_FILE are both set; expected one of them",
		"--master-key (SLUICE_MASTER_KEY): expected 32 bytes in hex, base64 or base64url",
		"--anthropic-api-key (ANTHROPIC_API_KEY): ANTHROPIC_API_KEY_FILE: " + filepath.Join(dir, "large") + " is larger than 65536 bytes",
		"--openai-api-key (OPENAI_API_KEY): OPENAI_API_KEY_FILE: cannot be read: open " + filepath.Join(dir, "none") + ": no such file or directory",
	}, faults)

	// A command looks at no file but its own: migrate has no right to read the keys of the models.
	_, faults = configured(t, env{"DATABASE_URL": "postgres://a@b/c", "OPENAI_API_KEY_FILE": "/none", "SLUICE_MASTER_KEY_FILE": "/none"}, "migrate", "up")
	require.Empty(t, faults)
}

func TestConfigEmptyIsUnset(t *testing.T) {
	t.Parallel()
	e := complete()
	e["SLUICE_LISTEN"], e["OTEL_EXPORTER_OTLP_ENDPOINT"] = "", ""
	c, faults := configured(t, e, "serve")
	require.Empty(t, faults)
	require.Equal(t, ":8080", c.Listen)
	require.Empty(t, c.OTLPEndpoint)
	e["SLUICE_METRICS_LISTEN"] = ""
	c, faults = configured(t, e, "serve")
	require.Empty(t, faults)
	require.Empty(t, c.MetricsListen, "but for the metrics it is off")
}

func TestConfigMasterKeyEncodings(t *testing.T) {
	t.Parallel()
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(0xf8 + i) // the first bytes need the characters in which the two base64s differ
	}
	for _, text := range []string{
		hex.EncodeToString(key), strings.ToUpper(hex.EncodeToString(key)), base64.StdEncoding.EncodeToString(key), base64.RawStdEncoding.EncodeToString(key),
		base64.URLEncoding.EncodeToString(key), base64.RawURLEncoding.EncodeToString(key),
	} {
		got, ok := parseMasterKey(text)
		require.True(t, ok, text)
		require.Equal(t, key, got.bytes())
	}
	for _, text := range []string{"", "x", hex.EncodeToString(key[1:]), base64.StdEncoding.EncodeToString(key[1:]), strings.Repeat("=", 44)} {
		_, ok := parseMasterKey(text)
		require.False(t, ok, text)
	}
}

func TestConfigShowsNoSecret(t *testing.T) {
	t.Parallel()
	e := complete()
	e["ANTHROPIC_API_KEY"], e["OPENAI_API_KEY"] = "sk-c4n4ry", "sk-c4n4ry"
	c, faults := configured(t, e, "work")
	require.Empty(t, faults)
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("configured", "config", c, "key", c.MasterKey)
	for _, shown := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c), log.String()} {
		require.NotContains(t, shown, "c4n4ry")
		require.NotContains(t, shown, string(c.MasterKey.bytes()))
	}
}

func TestConfigFieldsAreComplete(t *testing.T) {
	t.Parallel()
	config := reflect.TypeFor[Config]()
	for field := range config.Fields() {
		for _, tag := range []string{"name", "from", "use", "help", "group"} {
			require.NotEmpty(t, field.Tag.Get(tag), "%s has no %s", field.Name, tag)
		}
		_, secret := field.Tag.Lookup("secret")
		hides := field.Type == reflect.TypeFor[masterKey]() || field.Type == reflect.TypeFor[masterKeys]() || strings.HasSuffix(field.Type.String(), "Secret")
		require.Equal(t, hides, secret, "%s: a secret has a type that hides it, and a tag", field.Name)
		require.True(t, strings.HasSuffix(field.Tag.Get("help"), "."), "%s: the help is a sentence", field.Name)
	}
}

func TestREADMEHoldsTheConfiguration(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "<!-- config -->\n")
	require.True(t, found)
	table, _, found := strings.Cut(rest, "<!-- /config -->")
	require.True(t, found)
	require.Equal(t, configTable(), table, "write the output of `sluice config-table` between the marks in README.md")
}
