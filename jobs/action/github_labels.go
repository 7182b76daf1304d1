package action

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"sluice/jobs/action/harmless"
)

// githubLabels adds labels to an issue or a pull request (docs.github.com/en/rest/issues/labels#add-labels-to-an-issue). A label that is there already
// stays as it is, so that doing it twice changes nothing. The same request with no labels takes all away: it is never made.
//
// GitHub makes a label that the repository does not have yet, if the credential may; hence the labels that a model may choose from are written out.
type githubLabels struct{ github }

var _ Connector = githubLabels{}

const (
	fieldChoices = "choices"
	fieldLabels  = "labels"
	// githubLabelMax is the length of a label's name that GitHub takes, in characters.
	githubLabelMax = 50
)

func (githubLabels) Spec() Spec {
	return Spec{Kind: "github_labels", Account: "github", Fields: []Field{
		githubRepoField(), githubAllowField(), githubIssueField(),
		{Name: fieldLabels, Form: FormContent, Required: true, Doc: "the labels to add, with commas between them, such as {{ output.labels | join: \", \" }}"},
		{Name: fieldChoices, Form: FormTexts, Required: true, Doc: "the labels that may be added; any other is left out, and if none is left nothing is sent"},
	}}
}

func (githubLabels) Check(p Params) []Fault {
	faults := githubCheck(p)
	choices := p.Lists[fieldChoices]
	switch {
	case len(choices) == 0:
		faults = append(faults, Fault{Place: "action.choices", Message: "expected the labels that may be added"})
	case slices.ContainsFunc(choices, badLabel):
		faults = append(faults, Fault{
			Place:   "action.choices",
			Message: "expected names of labels of at most " + strconv.Itoa(githubLabelMax) + " characters, in one line, without commas and blanks at their ends",
		})
	}
	return faults
}

// badLabel says that a text cannot be the name of a label in a list with commas.
func badLabel(name string) bool {
	return strings.ContainsAny(name, ",\n\r\t") || name != strings.TrimSpace(name) || name == "" || utf8.RuneCountInString(name) > githubLabelMax
}

func (githubLabels) Prepare(p Params, in Input) (Effect, error) {
	repo, issue, err := githubTarget(p)
	if err != nil {
		return Effect{}, err
	}
	labels := chosen(p.Texts[fieldLabels], p.Lists[fieldChoices])
	if len(labels) == 0 {
		return Effect{}, refused(CodeEmptyBody, "action.labels: none of the labels is among those that action.choices names")
	}
	return Effect{
		Kind: "github_labels", Target: repo + "#" + issue, ContentType: textType, Signed: true, Body: []byte(strings.Join(labels, ", ")), Once: OnceKey,
		Args: map[string]string{fieldRepo: repo, fieldIssue: issue}, RunID: in.RunID, Depth: in.Depth,
	}, nil
}

// chosen are the choices that a text with commas names, each once, in the order and the spelling of the choices: nothing of the text itself goes on.
// GitHub tells labels apart without their case.
func chosen(text string, choices []string) (labels []string) {
	named := map[string]bool{}
	for name := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		named[strings.ToLower(harmless.Line(name, githubLabelMax))] = true
	}
	for _, choice := range choices {
		if lower := strings.ToLower(choice); named[lower] && !badLabel(choice) {
			labels = append(labels, choice)
			delete(named, lower)
		}
	}
	return labels
}

func (c githubLabels) Do(ctx context.Context, s Send) (Receipt, error) {
	labels := strings.Split(string(s.Effect.Body), ", ")
	if slices.ContainsFunc(labels, badLabel) {
		return Receipt{}, refused(CodeInvalid, "there are no labels to add")
	}
	var have []struct {
		ID   int64  `json:"id"`
		Name string `json:"name"`
	}
	res, err := c.ask(ctx, s, question{
		method: http.MethodPost, path: "/repos/" + s.Effect.Args[fieldRepo] + "/issues/" + s.Effect.Args[fieldIssue] + "/labels",
		in: map[string][]string{fieldLabels: labels}, out: &have, large: true,
	})
	if err != nil {
		return Receipt{}, err
	}
	var ids []string
	for _, label := range labels {
		for _, one := range have {
			if strings.EqualFold(one.Name, label) {
				ids = append(ids, strconv.FormatInt(one.ID, 10))
			}
		}
	}
	if len(ids) < len(labels) {
		// The answer is the issue's labels, all of them.
		return Receipt{}, &Error{Code: CodeBroken, Kind: Retry, Message: "the target's answer lacks labels that were to be added", Doubt: true, Status: res.Status}
	}
	return Receipt{Status: res.Status, ID: strings.Join(ids, ",")}, nil
}
