package source

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

const bearerScheme = "Bearer"

// bearer is any sender that proves itself with a token that is the same in every delivery.
var bearer = Source{
	Name:       "bearer",
	Title:      "Any sender with a token",
	Docs:       "https://www.rfc-editor.org/rfc/rfc6750",
	SecretFrom: SecretFromEither,
	Setup: "In the sending system, add a webhook with the URL {url} and the header Authorization: Bearer {secret}, or paste its " +
		"own token here. If it sends the bare token in another header, say in the settings in which.",
	Signs:      "Nothing: the header Authorization, or that of the settings, carries the token in every delivery.",
	Window:     untimed,
	BodySigned: never,
	IDSigned:   never,
	Retries:    "As the sender chooses.",
	Order:      "time and sequence, if the settings have expressions for them.",
	Settings: slices.Concat([]Setting{
		{"header", "the header with the token: Authorization, with the scheme Bearer, or any other with the token alone; else Authorization"},
	}, namingDocs),
	Notes: []string{
		"Who reads one delivery can send any other: the URL must be https, and nothing between it and Sluice may log the header.",
	},
	BodyMax: 1 << 20,

	Verify: func(r Request, secrets []string, s Settings) (int, error) {
		set, ok := s.(*bearerSettings)
		if !ok {
			return -1, errBearerSettings
		}
		return bearerMatch(r.Header, set.header, secrets)
	},
	Events: func(r Request, s Settings) ([]Event, error) {
		set, ok := s.(*bearerSettings)
		if !ok {
			return nil, errBearerSettings
		}
		return set.events(r, set.header, byHash(r.Body))
	},
	Samples: genericSamples,
	Sign: func(in SignInput) (Signed, error) {
		set, ok := in.Settings.(*bearerSettings)
		if !ok {
			return Signed{}, errBearerSettings
		}
		if in.Secret == "" {
			return Signed{}, errNoSecret
		}
		h, body := set.shape(in)
		h.Set(set.header, bearerValue(set.header, in.Secret))
		return Signed{h, body}, nil
	},
	NewSecret:   newHexSecret,
	CheckSecret: checkPlainSecret,
	ParseSettings: func(raw json.RawMessage) (Settings, []Fault) {
		set := &bearerSettings{}
		return parsed(raw, set, func(in *settingReader) {
			if set.header = in.header("header"); set.header == "" {
				set.header = authorization
			}
			set.naming = in.naming()
		})
	},
}

// bearerSettings are the settings of a sender with a token.
type bearerSettings struct {
	naming

	header string
}

func (s *bearerSettings) proofHeader() string { return s.header }

var errBearerSettings = refuse(ReasonSettingsInvalid, "the endpoint has no settings of a sender with a token")

// bearerMatch looks for the secret that a header carries: after the scheme in Authorization, alone in any other.
func bearerMatch(h http.Header, name string, secrets []string) (int, error) {
	value, err := signatureHeader(h, name)
	if err != nil {
		return -1, err
	}
	if strings.EqualFold(name, authorization) {
		scheme, token, _ := strings.Cut(value, " ")
		if !strings.EqualFold(scheme, bearerScheme) || token == "" {
			return -1, refuse(ReasonSignatureMalformed, "header "+authorization+" must be "+bearerScheme+" and the token")
		}
		value = token
	}
	return matchToken(value, secrets)
}

// bearerValue is what bearerMatch reads.
func bearerValue(name, token string) string {
	if strings.EqualFold(name, authorization) {
		return bearerScheme + " " + token
	}
	return token
}
