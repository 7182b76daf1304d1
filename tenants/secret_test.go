package tenants_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/tenants"
)

const secretText = "sk-live-9hJ2mQ4xTz7w"

// holder has a secret in each place where a printer might find one.
type holder struct {
	Exported   tenants.Secret
	unexported tenants.Secret
	pointer    *tenants.Secret
	list       []tenants.Secret
	Byname     map[string]tenants.Secret
	inner      struct{ deep tenants.Secret }
	anything   any
}

func held() holder {
	s := tenants.NewSecret(secretText)
	h := holder{
		Exported: s, unexported: s, pointer: &s, list: []tenants.Secret{s}, Byname: map[string]tenants.Secret{"a": s}, anything: s,
	}
	h.inner.deep = s
	return h
}

func shown() map[string]any {
	s, h := tenants.NewSecret(secretText), held()
	return map[string]any{
		"alone": s, "pointer": &s, "list": []tenants.Secret{s}, "map": map[string]tenants.Secret{"a": s}, "struct": h, "pointer to a struct": &h,
		"array": [1]tenants.Secret{s}, "in any": []any{s, h},
	}
}

// requireHidden looks for any six characters of the text, plain, in hex or as a list of bytes.
func requireHidden(t *testing.T, output, message string) {
	t.Helper()
	const piece = 6
	for i := 0; i+piece <= len(secretText); i++ {
		part := secretText[i : i+piece]
		for _, form := range []string{"%s", "%x", "%X", "% x", "%d"} {
			require.NotContains(t, output, fmt.Sprintf(form, part), message)
		}
		require.NotContains(t, output, fmt.Sprintf("%d", []byte(part)[0:3]), message)
	}
}

func TestSecretNeverShowsInPrint(t *testing.T) {
	t.Parallel()
	for name, value := range shown() {
		for _, format := range []string{
			"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%#x", "%d", "%t", "%c", "%b", "%o", "%e", "%g", "%U", "%p", "%T", "%z", "%10v", "%-40s", "%.9s",
		} {
			requireHidden(t, fmt.Sprintf(format, value), name+" with "+format)
		}
		requireHidden(t, fmt.Sprint(value)+fmt.Sprintln(value), name)
		requireHidden(t, fmt.Errorf("call with %v: %w", value, errors.ErrUnsupported).Error(), name)
	}
	s := tenants.NewSecret(secretText)
	require.Equal(t, "[secret] [secret] [secret]", fmt.Sprintf("%v %s %#v", s, s, s))
	require.Equal(t, "[secret]", s.String())
	require.Equal(t, "[secret]", fmt.Sprint(tenants.Secret{}), "that there is none is not shown either")
}

func TestSecretNeverShowsInJSON(t *testing.T) {
	t.Parallel()
	for name, value := range shown() {
		encoded, err := json.Marshal(value)
		require.NoError(t, err)
		requireHidden(t, string(encoded), name)
	}
	encoded, err := json.Marshal(struct{ Key tenants.Secret }{tenants.NewSecret(secretText)})
	require.NoError(t, err)
	require.JSONEq(t, `{"Key": "[secret]"}`, string(encoded))
	text, err := tenants.NewSecret(secretText).MarshalText()
	require.NoError(t, err)
	require.Equal(t, "[secret]", string(text))
	var read tenants.Secret
	require.Error(t, json.Unmarshal([]byte(`"`+secretText+`"`), &read), "nor is one made by accident") //nolint:staticcheck // that it cannot is what is tested
}

func TestSecretNeverShowsInLogs(t *testing.T) {
	t.Parallel()
	for name, value := range shown() {
		var text, object bytes.Buffer
		for _, handler := range []slog.Handler{slog.NewTextHandler(&text, nil), slog.NewJSONHandler(&object, nil)} {
			log := slog.New(handler)
			log.With("with", value).WithGroup("g").Info("said", "attr", value, slog.Group("group", "inner", value))
			log.Info(fmt.Sprint(value))
		}
		requireHidden(t, text.String(), name)
		requireHidden(t, object.String(), name)
	}
	var text bytes.Buffer
	slog.New(slog.NewTextHandler(&text, nil)).Info("said", "key", tenants.NewSecret(secretText))
	require.Contains(t, text.String(), "key=[secret]")
}

func TestSecretGivesItsTextToWhoAsks(t *testing.T) {
	t.Parallel()
	s := tenants.NewSecret(secretText)
	require.Equal(t, secretText, s.Reveal())
	require.False(t, s.Empty())
	for _, none := range []tenants.Secret{{}, tenants.NewSecret("")} {
		require.Empty(t, none.Reveal())
		require.True(t, none.Empty())
		require.Equal(t, "****", none.Last4())
	}
}

func TestLast4NeedsTwelveCharacters(t *testing.T) {
	t.Parallel()
	require.Equal(t, "Tz7w", tenants.NewSecret(secretText).Last4())
	require.Equal(t, "8901", tenants.NewSecret("012345678901").Last4())
	require.Equal(t, "****", tenants.NewSecret("01234567890").Last4())
}
