package api_test

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/api"
)

var connectorRowRE = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (?:`([a-z]+)`)? *\\|.*\\|.*\\| *(yes)? *\\|$")

func TestConnectorsAreThoseOfTheDocument(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var got struct {
		Data        []api.Connector
		Credentials []api.CredentialKind
	}
	require.NoError(t, json.Unmarshal(b.call(b.tenant().viewer, "GET", "/v1/connectors", nil).is(200).body, &got))
	text, err := os.ReadFile("../docs/connectors.md")
	require.NoError(t, err)
	var said, are [][]string
	for _, row := range connectorRowRE.FindAllStringSubmatch(string(text), -1) {
		said = append(said, row[1:])
	}
	for _, c := range got.Data {
		update := ""
		if slices.ContainsFunc(c.Fields, func(f api.ConnectorField) bool { return f.Name == "update" }) {
			update = "yes"
		}
		are = append(are, []string{c.Kind, c.Credential, update})
		for _, f := range c.Fields {
			require.NotEmpty(t, f.Form, f.Name)
		}
	}
	require.Equal(t, are, said)
	for _, c := range got.Credentials {
		require.NotEmpty(t, c.Secret, c.Kind)
	}
}
