package source

import (
	"encoding/json"
	"net/url"
	"regexp"
	"strings"
)

// githubSet are the settings of an endpoint of GitHub: where missed deliveries are asked for, and with what.
type githubSet struct {
	hook       *url.URL // nil if none are asked for
	credential string
}

const (
	githubHook       = "redeliver_hook"
	githubCredential = "redeliver_credential_id"

	githubHookMax       = 512
	githubCredentialMax = 64
	credentialPrefix    = "crd_"

	// The kinds of the tenant's credentials, as POST /v1/credentials takes them.
	githubTokenKind = "github"
	githubAppKind   = "github_app"
)

var githubSettings = []Setting{
	{Name: githubHook, Help: "the API address of this very webhook, so that deliveries that did not arrive are found and asked for again: " +
		"https://api.github.com/repos/OWNER/REPO/hooks/ID, .../orgs/ORG/hooks/ID, or .../app/hook for an app; on an Enterprise Server https://HOST/api/v3/...; " +
		"else none are asked for"},
	{Name: githubCredential, Help: "with redeliver_hook: the id of the credential it is asked with, crd_...: of the kind github for the hook of a repository " +
		"or an organisation, a token that may write webhooks; of the kind github_app for /app/hook, the app's id, a colon and its private key"},
}

// githubHookPath are the three forms in which GitHub's API names a webhook that lists its deliveries (docs.github.com/en/rest/repos/webhooks,
// .../orgs/webhooks, .../apps/webhooks), below the prefix that the API has on an Enterprise Server.
var githubHookPath = regexp.MustCompile(`^(?:/api/v3)?/(?:repos/[A-Za-z0-9_-]+/[A-Za-z0-9._-]+/hooks/[0-9]+|orgs/[A-Za-z0-9_-]+/hooks/[0-9]+|(app)/hook)$`)

// githubOwnHosts are GitHub's own APIs: that of github.com, and those of enterprises on GHE.com.
var githubOwnHosts = regexp.MustCompile(`^api\.(?:github|[a-z0-9-]+\.ghe)\.com$`)

func githubParse(raw json.RawMessage) (Settings, []Fault) {
	var set githubSet
	return parsed(raw, &set, func(in *settingReader) {
		text := in.text(githubHook, "", githubHookMax)
		set.credential = in.text(githubCredential, "", githubCredentialMax)
		if text != "" && !in.faulty(githubHook) {
			if set.hook = githubHookURL(text); set.hook == nil {
				in.fault(githubHook, "must be https://api.github.com/repos/OWNER/REPO/hooks/ID, https://api.github.com/orgs/ORG/hooks/ID or "+
					"https://api.github.com/app/hook, or the same of an Enterprise Server, whose API is at https://HOST/api/v3 as a rule")
			}
		}
		switch {
		case in.faulty(githubHook) || in.faulty(githubCredential):
		case text == "" && set.credential != "":
			in.fault(githubHook, "is required with "+githubCredential)
		case text != "" && set.credential == "":
			in.fault(githubCredential, "is required with "+githubHook)
		case set.credential != "" && !strings.HasPrefix(set.credential, credentialPrefix):
			in.fault(githubCredential, "must be the id of a credential, crd_...")
		}
	})
}

// githubHookURL reads the address of a webhook; nil if it is none.
func githubHookURL(text string) *url.URL {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawPath != "" || strings.ContainsAny(text, "?#") {
		return nil
	}
	if !githubHookPath.MatchString(u.Path) || strings.Contains(u.Path, "/../") || strings.Contains(u.Path, "/./") {
		return nil
	}
	return u
}

// githubNeeds are the credential with which missed deliveries are asked for.
func githubNeeds(s Settings) []Need {
	set, _ := s.(*githubSet)
	if set == nil || set.hook == nil {
		return nil
	}
	need := Need{Place: githubCredential, ID: set.credential, Kind: githubTokenKind, StrangerPlace: githubHook}
	if match := githubHookPath.FindStringSubmatch(set.hook.Path); match[1] != "" {
		need.Kind = githubAppKind
	}
	if !githubOwnHosts.MatchString(strings.ToLower(set.hook.Host)) {
		need.Stranger = set.hook.Host
	}
	return []Need{need}
}
