package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"sluice/jobs/outbound"
	"sluice/proof"
)

// What GitHub's API wants to be told, and what it answers (docs.github.com/en/rest/repos/webhooks, .../orgs/webhooks, .../apps/webhooks).
const (
	githubAccept     = "application/vnd.github+json"
	githubAPIVersion = "2022-11-28"
	githubPing       = "ping"
	// missedPageRows is the most that GitHub puts on a page.
	missedPageRows = 100
	// missedPagesMax bounds one look: 10,000 deliveries, two requests of a hundred a day in GitHub's rate limit of 5,000 an hour.
	missedPagesMax = 100
	// missedPageBytesMax bounds the body of one page: a hundred deliveries are about 40 KB.
	missedPageBytesMax = 1 << 20

	guidBytesMax   = 100
	cursorBytesMax = 512
)

// How long a source is left alone that says its rate limit is reached: as it says, and a minute where it does not
// (docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api). GitHub's own limits reset within an hour.
const (
	restMin = time.Minute
	restMax = 2 * time.Hour
)

// hookDelivery is one attempt of GitHub's to deliver an event, as its API lists it. The guid is the event's: it is the same for every attempt, and is
// what X-GitHub-Delivery says.
type hookDelivery struct {
	ID          int64     `json:"id"`
	GUID        string    `json:"guid"`
	DeliveredAt time.Time `json:"delivered_at"`
	StatusCode  int       `json:"status_code"`
	Event       string    `json:"event"`
}

// accepted says whether the attempt was answered 2xx.
func (d hookDelivery) accepted() bool { return d.StatusCode/100 == 2 }

// hookFault is why a source could not be asked. Its text is a sentence that a tenant may read: nothing of the answer's body, and no secret, is in it.
type hookFault struct {
	text string
	// rest, if not zero, is how long the source wants to be left alone.
	rest time.Duration
	// untaken says that the source certainly did not do what it was asked.
	untaken bool
	// stop says that the next request would end the same way.
	stop bool
	// single says that it is about one delivery and no other.
	single bool
}

func (f *hookFault) Error() string { return f.text }

// hook is a webhook as GitHub's API has it.
type hook struct {
	door    *outbound.Door
	address string
	bearer  string
	now     func() time.Time
}

// do asks once, and turns every answer but the wanted one into a fault.
func (h *hook) do(ctx context.Context, method, address string, wanted int) (outbound.Response, error) {
	header := http.Header{}
	header.Set("Accept", githubAccept)
	header.Set("Authorization", "Bearer "+h.bearer)
	header.Set("X-Github-Api-Version", githubAPIVersion)
	res, err := h.door.Do(proof.Step(ctx, stepMissedAsk), outbound.Request{Method: method, URL: address, Header: header, ResponseBytesMax: missedPageBytesMax})
	if failed, ok := errors.AsType[*outbound.Error](err); ok {
		return res, &hookFault{text: "GitHub could not be asked: " + failed.Error() + ".", untaken: !failed.Sent, stop: true}
	}
	if err != nil {
		return res, err
	}
	if res.Status == wanted {
		return res, nil
	}
	if rest := resting(res, h.now()); rest > 0 {
		return res, &hookFault{
			text: fmt.Sprintf("GitHub's rate limit is reached; it is not asked again before %s.", h.now().Add(rest).UTC().Format(time.RFC3339)),
			rest: rest, untaken: true, stop: true,
		}
	}
	return res, statusFault(method, res.Status)
}

// statusFault says what an answer means that is neither the wanted one nor a rate limit.
func statusFault(method string, status int) *hookFault {
	asking := method == http.MethodPost
	switch {
	case status == http.StatusUnauthorized:
		return &hookFault{text: "GitHub answered 401: the credential is wrong, or has expired.", untaken: true, stop: true}
	case status == http.StatusForbidden && asking:
		return &hookFault{text: "GitHub answered 403: the credential may not ask for deliveries again; it needs to write webhooks.", untaken: true, stop: true}
	case status == http.StatusForbidden:
		return &hookFault{text: "GitHub answered 403: the credential may not read the hook's deliveries.", untaken: true, stop: true}
	case status == http.StatusNotFound && !asking:
		return &hookFault{text: "GitHub answered 404: there is no such hook, or the credential may not see it.", untaken: true, stop: true}
	case status/100 == 3:
		return &hookFault{text: fmt.Sprintf("GitHub answered %d: the hook has another address, to which nothing is sent. Set redeliver_hook to it.", status), untaken: true, stop: true}
	case status/100 == 4 && asking:
		// This one delivery cannot be had again. It counts as asked for, so that the asking ends; the next one may well be had.
		return &hookFault{text: fmt.Sprintf("GitHub answered %d when it was asked for a delivery again.", status), single: true}
	}
	return &hookFault{text: fmt.Sprintf("GitHub answered %d.", status), stop: true}
}

// resting is how long the source wants to be left alone; 0 if it says nothing of that. A 403 is a limit only where a header says so.
func resting(res outbound.Response, now time.Time) time.Duration {
	if res.Status != http.StatusTooManyRequests && res.Status != http.StatusForbidden {
		return 0
	}
	rest := time.Duration(0)
	if seconds, err := strconv.ParseInt(res.Header.Get("Retry-After"), 10, 32); err == nil {
		rest = max(time.Duration(seconds)*time.Second, restMin)
	} else if reset, err := strconv.ParseInt(res.Header.Get("X-Ratelimit-Reset"), 10, 64); err == nil && res.Header.Get("X-Ratelimit-Remaining") == "0" {
		rest = max(time.Unix(min(reset, now.Add(restMax).Unix()), 0).Sub(now), restMin)
	}
	if rest == 0 && res.Status == http.StatusTooManyRequests {
		rest = restMin
	}
	return min(rest, restMax)
}

// ask asks for a delivery again. GitHub takes it with 202 and sends it soon, under the same guid.
func (h *hook) ask(ctx context.Context, delivery string) error {
	_, err := h.do(ctx, http.MethodPost, h.address+"/deliveries/"+delivery+"/attempts", http.StatusAccepted)
	return err
}

// page reads one page of deliveries, newest first, and the cursor of the next one, "" on the last.
func (h *hook) page(ctx context.Context, cursor string) ([]hookDelivery, string, error) {
	query := url.Values{"per_page": {strconv.Itoa(missedPageRows)}}
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	address := h.address + "/deliveries"
	res, err := h.do(ctx, http.MethodGet, address+"?"+query.Encode(), http.StatusOK)
	if err != nil {
		return nil, "", err
	}
	if res.Truncated {
		return nil, "", &hookFault{text: fmt.Sprintf("GitHub's list of deliveries did not end within %d bytes or in time.", missedPageBytesMax), stop: true}
	}
	var rows []hookDelivery
	if err := json.Unmarshal(res.Body, &rows); err != nil {
		return nil, "", &hookFault{text: "GitHub's list of deliveries cannot be read: expected a JSON array of deliveries.", stop: true}
	}
	next, err := nextCursor(res.Header.Get("Link"), address)
	if err == nil && next == cursor && next != "" {
		err = &hookFault{text: "GitHub's list of deliveries names a page as its own next one."}
	}
	return rows, next, err
}

// nextCursor is the cursor of the page that a Link header calls next, "" if there is none. Nothing else of that address is used: the credential goes to
// the hook's own address and nowhere else. GitHub names a repository by its number there, so the path may differ, and the host must not.
func nextCursor(link, from string) (string, error) {
	for rest := link; ; {
		_, after, found := strings.Cut(rest, "<")
		address, params, closed := strings.Cut(after, ">")
		if !found || !closed {
			return "", nil
		}
		params, rest, _ = strings.Cut(params, ",")
		if !isNext(params) {
			continue
		}
		here, err := url.Parse(from)
		if err != nil {
			return "", err
		}
		next, err := here.Parse(address)
		if err != nil || next.Scheme != here.Scheme || !strings.EqualFold(next.Host, here.Host) {
			return "", &hookFault{text: "GitHub's list of deliveries goes on at another host, which is not followed."}
		}
		cursor := next.Query().Get("cursor")
		if cursor == "" || len(cursor) > cursorBytesMax {
			return "", &hookFault{text: "GitHub's list of deliveries goes on without a cursor that can be used."}
		}
		return cursor, nil
	}
}

// isNext reports whether the parameters of a link call it next.
func isNext(params string) bool {
	for param := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		if strings.EqualFold(name, "rel") && strings.EqualFold(strings.Trim(strings.TrimSpace(value), `"`), "next") {
			return true
		}
	}
	return false
}

// looked is what a look through the deliveries found.
type looked struct {
	// failed is the newest attempt of every event that no attempt has brought here.
	failed map[string]hookDelivery
	// accepted are the events of which an attempt was answered 2xx.
	accepted []string
	// newest is when the newest attempt was made; zero if there is none.
	newest time.Time
}

// list looks through the deliveries that were made after since, newest first. What was found until a fault is given with the fault.
func (h *hook) list(ctx context.Context, since time.Time) (looked, error) {
	out := looked{failed: map[string]hookDelivery{}}
	accepted := map[string]bool{}
	cursor := ""
	for range missedPagesMax {
		rows, next, err := h.page(ctx, cursor)
		oldest := out.add(rows, since, accepted)
		if err != nil {
			return out.sorted(accepted), err
		}
		if next == "" || len(rows) == 0 || oldest.Before(since) {
			return out.sorted(accepted), nil
		}
		cursor = next
	}
	return out.sorted(accepted), &hookFault{text: fmt.Sprintf(
		"GitHub lists more than %d deliveries since the last look; the older ones of them were not looked through.", missedPagesMax*missedPageRows)}
}

// add takes the rows of a page, and says when the last of them was delivered.
func (l *looked) add(rows []hookDelivery, since time.Time, accepted map[string]bool) (oldest time.Time) {
	for _, d := range rows {
		oldest = d.DeliveredAt
		if d.DeliveredAt.After(l.newest) {
			l.newest = d.DeliveredAt
		}
		// A ping is a question, not an event; and what is no guid cannot be one of ours.
		if d.Event == githubPing || d.DeliveredAt.Before(since) || !isGUID(d.GUID) || d.ID <= 0 {
			continue
		}
		if d.accepted() {
			accepted[d.GUID] = true
		} else if held := l.failed[d.GUID]; d.DeliveredAt.After(held.DeliveredAt) {
			l.failed[d.GUID] = d
		}
	}
	return oldest
}

// sorted parts what an attempt has brought from what none has.
func (l *looked) sorted(accepted map[string]bool) looked {
	for guid := range accepted {
		delete(l.failed, guid)
		l.accepted = append(l.accepted, guid)
	}
	return *l
}

// isGUID reports whether a text can be the id of a delivery: hex digits and hyphens at GitHub, and any plain word elsewhere.
func isGUID(text string) bool {
	return text != "" && len(text) <= guidBytesMax && !strings.ContainsFunc(text, notAppID)
}

// deliveryID is how a delivery is named in an address.
func (d hookDelivery) deliveryID() string { return strconv.FormatInt(d.ID, 10) }
