package scripted

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The limits of a GitHub. Those that GitHub documents are its own.
const (
	githubPageRows      = 30
	githubPageRowsMax   = 100
	githubRedeliverable = 3 * 24 * time.Hour
	githubTargetTimeout = 10 * time.Second
	githubCursor        = "v1_"
)

// GitHubConfig says which webhook a GitHub has, and who may ask about it.
type GitHubConfig struct {
	// Hook is the path of the webhook in the API, such as /repos/octo/demo/hooks/1.
	Hook string
	// Token is what the API takes as a bearer token; "" takes none.
	Token string
	// AppID and AppKey are of the app whose JWT the API takes; nil takes none.
	AppID  string
	AppKey *rsa.PublicKey
	// Target is where the webhook's deliveries go, Secret what they are signed with.
	Target, Secret string
	Now            func() time.Time
}

// A GitHubDelivery is one attempt to deliver an event, as the API lists it (docs.github.com/en/rest/repos/webhooks).
type GitHubDelivery struct {
	ID          int64     `json:"id"`
	GUID        string    `json:"guid"`
	DeliveredAt time.Time `json:"delivered_at"`
	Redelivery  bool      `json:"redelivery"`
	Duration    float64   `json:"duration"`
	Status      string    `json:"status"`
	StatusCode  int       `json:"status_code"`
	Event       string    `json:"event"`
	Action      *string   `json:"action"`

	payload []byte
}

// A GitHubRequest is one request to the API.
type GitHubRequest struct {
	Method, Path, Query string
	Header              http.Header // without Authorization
	Authorized          bool
	Status              int
}

// A GitHubStep is how one request is answered in place of what the API would say.
type GitHubStep struct {
	Status    int
	Header    map[string]string
	Body      string
	BodyBytes int // of spaces, in place of Body
}

// A GitHubLie is what the API says of its pages that is not true.
type GitHubLie struct {
	// NextHost, if set, is the root of the address of each next page.
	NextHost string
	// Endless says that every page has a next one.
	Endless bool
}

// GitHub is the part of GitHub's API that lists the deliveries of one webhook and makes them again. It is an http.Handler for a server of the caller's,
// since the API speaks TLS, and is safe for concurrent use.
type GitHub struct {
	config GitHubConfig

	mu         sync.Mutex
	deliveries []GitHubDelivery // oldest first
	journal    []GitHubRequest
	steps      []GitHubStep
	lie        GitHubLie
	pages      int
	target     string
	token      string
}

// NewGitHub makes a GitHub without deliveries.
func NewGitHub(c GitHubConfig) *GitHub { return &GitHub{config: c, target: c.Target, token: c.Token} }

// Aim gives the webhook another target.
func (g *GitHub) Aim(target string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.target = target
}

// Expect makes the API take another token.
func (g *GitHub) Expect(token string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.token = token
}

// Script answers the next requests otherwise, one step each.
func (g *GitHub) Script(steps ...GitHubStep) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.steps = slices.Clone(steps)
}

// Lie makes the API lie about its pages.
func (g *GitHub) Lie(lie GitHubLie) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lie = lie
}

// Journal is every request to the API, in the order of arrival.
func (g *GitHub) Journal() []GitHubRequest {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.journal)
}

// Deliveries are all attempts, oldest first.
func (g *GitHub) Deliveries() []GitHubDelivery {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.deliveries)
}

// Add writes an attempt into the list that was made before the test began; its id and, if empty, its guid are made here.
func (g *GitHub) Add(d GitHubDelivery, payload []byte) GitHubDelivery {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.add(d, payload)
}

func (g *GitHub) add(d GitHubDelivery, payload []byte) GitHubDelivery {
	const firstID = 9_007_199_254_740_993 // does not survive a float
	d.ID, d.payload = firstID+int64(len(g.deliveries)), payload
	if d.GUID == "" {
		d.GUID = githubGUID()
	}
	d.Status = "OK"
	if d.StatusCode/100 != 2 {
		d.Status = fmt.Sprintf("Invalid HTTP Response: %d", d.StatusCode)
	}
	g.deliveries = append(g.deliveries, d)
	return d
}

func githubGUID() string {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw) // never fails
	text := hex.EncodeToString(raw)
	return strings.Join([]string{text[:8], text[8:12], text[12:16], text[16:20], text[20:]}, "-")
}

// Deliver delivers a new event to the target, and keeps the attempt.
func (g *GitHub) Deliver(ctx context.Context, event string, payload []byte) GitHubDelivery {
	return g.attempt(ctx, GitHubDelivery{GUID: githubGUID(), Event: event}, payload)
}

// attempt posts a delivery; a target that cannot be reached is a 502 of the list.
func (g *GitHub) attempt(ctx context.Context, d GitHubDelivery, payload []byte) GitHubDelivery {
	g.mu.Lock()
	target := g.target
	g.mu.Unlock()
	d.StatusCode = http.StatusBadGateway
	if req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(payload)); err == nil {
		mac := hmac.New(sha256.New, []byte(g.config.Secret))
		_, _ = mac.Write(payload)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("User-Agent", "GitHub-Hookshot/scripted")
		req.Header.Set("X-GitHub-Delivery", d.GUID)
		req.Header.Set("X-GitHub-Event", d.Event)
		req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
		client := &http.Client{Timeout: githubTargetTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
		if res, err := client.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, targetBodyBytesMax))
			_ = res.Body.Close()
			d.StatusCode = res.StatusCode
		}
	}
	d.DeliveredAt = g.config.Now().UTC()
	return g.Add(d, payload)
}

// ServeHTTP answers as the API does.
func (g *GitHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := r.Header.Clone()
	header.Del("Authorization")
	entry := GitHubRequest{
		Method: r.Method, Path: r.URL.EscapedPath(), Query: r.URL.RawQuery, Header: header, Authorized: g.authorized(r.Header.Get("Authorization")),
	}
	status, body := g.answer(w, r, entry.Authorized)
	entry.Status = status
	g.mu.Lock()
	g.journal = append(g.journal, entry) // before the answer: who has read it finds the entry
	g.mu.Unlock()
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// answer decides on an answer, and sets its headers.
func (g *GitHub) answer(w http.ResponseWriter, r *http.Request, authorized bool) (int, []byte) {
	if step, ok := g.next(); ok {
		for name, value := range step.Header {
			w.Header().Set(name, value)
		}
		if step.BodyBytes > 0 {
			return step.Status, bytes.Repeat([]byte(" "), step.BodyBytes)
		}
		return step.Status, []byte(step.Body)
	}
	if !authorized {
		return http.StatusUnauthorized, []byte(`{"message":"Bad credentials"}`)
	}
	rest, ours := strings.CutPrefix(r.URL.Path, g.config.Hook+"/deliveries")
	id, isAttempt := strings.CutSuffix(strings.TrimPrefix(rest, "/"), "/attempts")
	switch {
	case ours && rest == "" && r.Method == http.MethodGet:
		return g.list(w, r)
	case ours && isAttempt && r.Method == http.MethodPost:
		return g.again(r.Context(), id)
	}
	return http.StatusNotFound, []byte(`{"message":"Not Found"}`)
}

func (g *GitHub) next() (GitHubStep, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.steps) == 0 {
		return GitHubStep{}, false
	}
	step := g.steps[0]
	g.steps = g.steps[1:]
	return step, true
}

// list answers a page, newest first, with the address of the next one. GitHub names the repository by its number there.
func (g *GitHub) list(w http.ResponseWriter, r *http.Request) (int, []byte) {
	size, err := strconv.Atoi(r.URL.Query().Get("per_page"))
	if err != nil || size < 1 {
		size = githubPageRows
	}
	size = min(size, githubPageRowsMax)
	g.mu.Lock()
	defer g.mu.Unlock()
	rows := slices.Clone(g.deliveries)
	slices.Reverse(rows)
	if cursor, ok := strings.CutPrefix(r.URL.Query().Get("cursor"), githubCursor); ok && !g.lie.Endless {
		before, err := strconv.ParseInt(cursor, 10, 64)
		if err != nil {
			return http.StatusUnprocessableEntity, []byte(`{"message":"Validation Failed"}`)
		}
		rows = slices.DeleteFunc(rows, func(d GitHubDelivery) bool { return d.ID >= before })
	}
	more := len(rows) > size || g.lie.Endless
	rows = rows[:min(size, len(rows))]
	if more && len(rows) > 0 {
		g.pages++
		cursor := rows[len(rows)-1].ID
		if g.lie.Endless {
			cursor = int64(g.pages)
		}
		root := "https://" + r.Host
		if g.lie.NextHost != "" {
			root = g.lie.NextHost
		}
		at := fmt.Sprintf("%s/repositories/1/hooks/1/deliveries?per_page=%d&cursor=%s%d", root, size, githubCursor, cursor)
		w.Header().Set("Link", `<`+root+`/repositories/1/hooks/1/deliveries?per_page=30>; rel="first", <`+at+`>; rel="next"`)
	}
	body, err := json.Marshal(rows)
	if err != nil {
		return http.StatusInternalServerError, nil
	}
	return http.StatusOK, body
}

// again makes a delivery once more, under its guid. GitHub does so soon after it has answered; here it is done before, so that a test need not wait.
func (g *GitHub) again(ctx context.Context, id string) (int, []byte) {
	g.mu.Lock()
	at := slices.IndexFunc(g.deliveries, func(d GitHubDelivery) bool { return strconv.FormatInt(d.ID, 10) == id })
	var old GitHubDelivery
	if at >= 0 {
		old = g.deliveries[at]
	}
	g.mu.Unlock()
	if at < 0 {
		return http.StatusNotFound, []byte(`{"message":"Not Found"}`)
	}
	if g.config.Now().Sub(old.DeliveredAt) > githubRedeliverable {
		return http.StatusUnprocessableEntity, []byte(`{"message":"Validation Failed"}`)
	}
	g.attempt(ctx, GitHubDelivery{GUID: old.GUID, Event: old.Event, Redelivery: true}, old.payload)
	return http.StatusAccepted, []byte(`{}`)
}
