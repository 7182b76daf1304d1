package source

import "encoding/json"

// basic is any sender that proves itself with a user and a password, by HTTP Basic.
var basic = Source{
	Name:       "basic",
	Title:      "Any sender with a user and a password",
	Docs:       "https://www.rfc-editor.org/rfc/rfc7617",
	SecretFrom: SecretFromEither,
	Setup: "In the sending system, add a webhook with the URL {url} and HTTP Basic authentication, with the user and the password " +
		"{secret}, which a colon parts; or paste its own here as user:password.",
	Signs:      "Nothing: the header Authorization carries the user and the password of every delivery.",
	Window:     untimed,
	BodySigned: never,
	IDSigned:   never,
	Retries:    "As the sender chooses.",
	Order:      "time and sequence, if the settings have expressions for them.",
	Settings:   namingDocs,
	Notes: []string{
		"Who reads one delivery can send any other: the URL must be https, and nothing between it and Sluice may log the header Authorization.",
	},
	BodyMax: 1 << 20,

	Verify: func(r Request, secrets []string, s Settings) (int, error) {
		if _, ok := s.(*basicSettings); !ok {
			return -1, errBasicSettings
		}
		return basicMatch(r.Header, secrets)
	},
	Events: func(r Request, s Settings) ([]Event, error) {
		set, ok := s.(*basicSettings)
		if !ok {
			return nil, errBasicSettings
		}
		return set.events(r, authorization, byHash(r.Body))
	},
	Samples: genericSamples,
	Sign: func(in SignInput) (Signed, error) {
		set, ok := in.Settings.(*basicSettings)
		if !ok {
			return Signed{}, errBasicSettings
		}
		if in.Secret == "" {
			return Signed{}, errNoSecret
		}
		h, body := set.shape(in)
		h.Set(authorization, basicHeader(in.Secret))
		return Signed{h, body}, nil
	},
	NewSecret:   newBasicSecret,
	CheckSecret: checkBasicSecret,
	ParseSettings: func(raw json.RawMessage) (Settings, []Fault) {
		set := &basicSettings{}
		return parsed(raw, set, func(in *settingReader) { set.naming = in.naming() })
	},
}

// basicSettings are the settings of a sender with a user and a password.
type basicSettings struct{ naming }

var errBasicSettings = refuse(ReasonSettingsInvalid, "the endpoint has no settings of a sender with a user and a password")
