// Package api is the HTTP face of Sluice: a file per resource, each in the order contract type, toX, inputs and outputs, registerX, handlers. It
// checks who asks (caller.go), says what went wrong (faults.go), and calls db for all that is kept. What must not enter: SQL, calls to models or
// targets, configuration, and the clock (Deps.Now).
package api

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"sluice/db"
	"sluice/jobs"
	"sluice/jobs/action"
)

// Deps is all that the API uses. Every field but Ready and ProxyHeaders must be set.
type Deps struct {
	DB      *db.DB
	Poster  *jobs.Poster
	Actions *action.Set
	// ModelFault says what is wrong with a model's name, "provider/model": "" if its provider exists and it has a price.
	ModelFault func(ctx context.Context, tx db.TenantTx, model string) (fault string, err error)
	// PriceNames are the names under which the price of a provider's model stands, in the order of trial.
	PriceNames func(model string) []string
	// PublicURL is where the world reaches this process, without a slash at its end.
	PublicURL string
	// ProxyHeaders are the headers that the proxy in front of this process sets itself and takes away from whoever sends them.
	ProxyHeaders []string
	// Fetch gets what is at a URL of a source's own, through the one door out: a certificate, a confirmation.
	Fetch func(ctx context.Context, url string) ([]byte, error)
	// IntakeFlushers is how many commits of the intake may be on their way at once.
	IntakeFlushers int
	// IntakeBatch is how many deliveries one of them may hold.
	IntakeBatch int
	// IntakeQueue is how many deliveries may wait for one; 0 is 4,096.
	IntakeQueue int
	Log         *slog.Logger
	Now         func() time.Time
	Version     string
	// Ready says why requests should go elsewhere; nil is always ready.
	Ready func(context.Context) error
}

// contractVersion is the version of the API, as its paths have it; it is not the binary's.
const contractVersion = "1"

// API is the HTTP face, ready to be served.
type API struct {
	deps   Deps
	routes *routes
	huma   huma.API
	intake *intake
	// reviewer decides on runs in review.
	reviewer *jobs.Reviewer
	// document is the OpenAPI document as YAML, documentJSON the same as JSON, docs the page that shows it.
	document, documentJSON, docs []byte
}

// New registers every operation. It panics where an operation contradicts itself: that is a mistake in this package, and each test meets it.
func New(deps Deps) *API {
	humaErrorsAreOurs()
	a := &API{deps: deps, routes: newRoutes(), reviewer: jobs.NewReviewer(deps.Actions, deps.Poster, deps.Now)}
	a.huma = newHuma(a.routes)
	a.intake = newIntake(deps)

	// The surface, in one screen.
	a.registerAlertChannels()
	a.registerAlerts()
	a.registerAudit()
	a.registerAutomations()
	a.registerCredentials()
	a.registerCredentialTest()
	a.registerEndpoints()
	a.registerEvents()
	a.registerHealth()
	a.registerKeys()
	a.registerLimits()
	a.registerProviders()
	a.registerRejections()
	a.registerReviews()
	a.registerRuns()
	a.registerResolve()
	a.registerReplays()
	a.registerBacktest()
	a.registerScores()
	a.registerSources()
	a.registerConnectors()
	a.registerTenants()
	a.registerTrials()
	a.registerUsage()

	// What is no operation of the contract's document.
	a.raw("POST /in/{token}", a.intake.ServeHTTP)
	a.raw("HEAD /in/{token}", a.intake.seen)
	a.registerDocuments()
	return a
}

// OpenAPI is the OpenAPI 3.1 document of every operation but the intake, as YAML. It is the same on every run.
func (a *API) OpenAPI() ([]byte, error) {
	document, err := a.huma.OpenAPI().YAML()
	if err != nil {
		return nil, fmt.Errorf("write the OpenAPI document: %w", err)
	}
	return document, nil
}

// Routes lists every route that is served, in the order of their registration.
func (a *API) Routes() []Route { return a.routes.list }

// Close writes what is still in memory: the counts of refused deliveries. Nothing may be served after it.
func (a *API) Close(ctx context.Context) { a.intake.Close(ctx) }

// bodyBytesMax bounds the body of every request but a delivery; more is a 413.
const bodyBytesMax = 1 << 20

func newHuma(mux *routes) huma.API {
	config := huma.DefaultConfig("Sluice", contractVersion)
	config.Info.Description = "Webhooks in, acts of an AI out: at the pace, the price and the degree of trust that each tenant has set."
	// The document and the page are served by registerDocuments, without links to anywhere.
	config.OpenAPIPath, config.DocsPath, config.SchemasPath, config.CreateHooks = "", "", "", nil
	config.RejectUnknownQueryParameters = true
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		tenantScheme:   {Type: "http", Scheme: "bearer", BearerFormat: "slc_...", Description: "A key of a tenant, of the role in x-sluice-role or a higher one."},
		operatorScheme: {Type: "http", Scheme: "bearer", BearerFormat: "slo_...", Description: "A key of the operator."},
	}
	return humago.New(mux, config)
}
