package main

import (
	"log/slog"
	"time"

	"sluice/tenants"
)

// Config is all that can be configured, and the only struct of it. A field is a flag (its name), a variable of the environment (from), and a
// file whose path is in that variable's name with _FILE behind it. Tags say the rest:
//
//	use      the commands that read it; for all others it is not looked at, not even for faults
//	need     the commands that cannot do without it
//	default  what holds where nothing is said
//	min, max the bounds of a number or a duration
//	shape    what a text has to be: listen, url, smtp, sender, level, one of a|b|c
//	secret   its value is never shown
//	empty    what an empty variable means; without it, an empty variable is one that is not set
type Config struct {
	DatabaseURL      tenants.Secret `name:"database-url" from:"DATABASE_URL" use:"serve work migrate operator-key ledger doctor master-key" need:"serve work operator-key ledger doctor master-key" shape:"postgres" secret:"true" group:"Database" help:"Postgres, as a login that may become sluice_app, sluice_door, sluice_worker and sluice_system."`
	OwnerDatabaseURL tenants.Secret `name:"owner-database-url" from:"SLUICE_OWNER_DATABASE_URL" use:"migrate" shape:"postgres" secret:"true" group:"Database" help:"Postgres, as a login that may migrate: make roles, and create in the database. Without it, DATABASE_URL."`
	DBConns          int            `name:"db-conns" from:"SLUICE_DB_CONNS" use:"serve work dev" default:"16" min:"2" max:"1000" group:"Database" help:"Connections of each pool. serve and work have three pools each."`
	TraceSQL         bool           `name:"trace-sql" from:"SLUICE_TRACE_SQL" use:"serve work dev" default:"false" group:"Telemetry" help:"Makes a span of every statement. Values are not in it."`

	Listen        string `name:"listen" from:"SLUICE_LISTEN" use:"serve dev" default:":8080" shape:"listen" group:"Serving" help:"Address of the API and the intake."`
	MetricsListen string `name:"metrics-listen" from:"SLUICE_METRICS_LISTEN" use:"serve work dev" default:":9090" shape:"listen" empty:"none" group:"Serving" help:"Address of /metrics, /healthz and /readyz; empty for none."`
	PublicURL     string `name:"public-url" from:"SLUICE_PUBLIC_URL" use:"serve dev" need:"serve" shape:"url" group:"Serving" help:"Where the world reaches this API, such as https://hooks.example.com; it begins the URLs that are pasted into sources. dev takes http://127.0.0.1 and its port."`

	IntakeFlushers int    `name:"intake-flushers" from:"SLUICE_INTAKE_FLUSHERS" use:"serve dev" default:"2" min:"1" max:"64" group:"Serving" help:"Commits of the intake that may be on their way at once; 4 where a flush of the disk takes a millisecond or more."`
	IntakeBatch    int    `name:"intake-batch" from:"SLUICE_INTAKE_BATCH" use:"serve dev" default:"256" min:"1" max:"4096" group:"Serving" help:"Deliveries that one commit of the intake may hold; 1 gives each a transaction of its own."`
	ProxyHeaders   string `name:"proxy-headers" from:"SLUICE_PROXY_HEADERS" use:"serve dev" shape:"headers" group:"Serving" help:"Names of headers, with commas between them, that the proxy in front sets itself and takes away from whoever sends them, such as X-Client-Cert-Sha256. Sources that are known by a client certificate read these alone; without the name here, such an endpoint takes nothing."`

	MasterKey        masterKey      `name:"master-key" from:"SLUICE_MASTER_KEY" use:"serve work dev master-key doctor" need:"serve work master-key" secret:"true" group:"Secrets" help:"32 bytes, in hex, base64 or base64url, under which tenants' secrets are sealed. Without it no stored secret can be read; openssl rand -hex 32 makes one."`
	MasterKeysOld    masterKeys     `name:"master-keys-old" from:"SLUICE_MASTER_KEYS_OLD" use:"serve work dev master-key doctor" secret:"true" group:"Secrets" help:"Other master keys, with commas between them, that still open what was sealed under them; nothing new is. See docs/keys.md for how a key is changed."`
	AnthropicAPIKey  tenants.Secret `name:"anthropic-api-key" from:"ANTHROPIC_API_KEY" use:"work dev" secret:"true" group:"Models" help:"The operator's own key, for tenants that bring none."`
	OpenAIAPIKey     tenants.Secret `name:"openai-api-key" from:"OPENAI_API_KEY" use:"work dev" secret:"true" group:"Models" help:"The operator's own key, for tenants that bring none."`
	AnthropicBaseURL string         `name:"anthropic-base-url" from:"SLUICE_ANTHROPIC_BASE_URL" use:"work dev" shape:"url" group:"Models" help:"Another address than Anthropic's own, such as a proxy's."`
	OpenAIBaseURL    string         `name:"openai-base-url" from:"SLUICE_OPENAI_BASE_URL" use:"work dev" shape:"url" group:"Models" help:"Another address than OpenAI's own, with its version, such as http://proxy/v1."`
	ScriptedURL      string         `name:"scripted-url" from:"SLUICE_SCRIPTED_URL" use:"serve work dev" shape:"url" group:"Models" help:"Address of a scripted provider; the provider called scripted exists only with it. dev starts its own."`

	RunWorkers       int           `name:"run-workers" from:"SLUICE_RUN_WORKERS" use:"work dev" default:"1000" min:"1" max:"10000" group:"Work" help:"Runs that one process works on at once: most of them wait for a model. A quarter is for urgent ones, and one tenant has a half at most."`
	ActionWorkers    int           `name:"action-workers" from:"SLUICE_ACTION_WORKERS" use:"work dev" default:"32" min:"1" max:"10000" group:"Work" help:"Actions that one process posts at once."`
	Lease            time.Duration `name:"lease" from:"SLUICE_LEASE" use:"work dev" default:"30s" min:"3s" max:"10m" group:"Work" help:"How long a run belongs to a worker that does not report back."`
	SweepEvery       time.Duration `name:"sweep-every" from:"SLUICE_SWEEP_EVERY" use:"work dev" default:"5s" min:"100ms" max:"10m" group:"Work" help:"How often runs that nobody works on are looked for."`
	PayloadRetention time.Duration `name:"payload-retention" from:"SLUICE_PAYLOAD_RETENTION" use:"work dev" default:"720h" min:"24h" max:"87600h" group:"Work" help:"How long raw bodies are kept. They are dropped by the day (UTC); the events, their keys and what came of them stay."`
	MissedEvery      time.Duration `name:"missed-every" from:"SLUICE_MISSED_EVERY" use:"work dev" default:"5m" min:"10s" max:"6h" group:"Work" help:"How often a source that lists its deliveries (GitHub) is asked for what did not arrive, for endpoints whose settings say so."`
	ModelTimeout     time.Duration `name:"model-timeout" from:"SLUICE_MODEL_TIMEOUT" use:"work dev" default:"2m" min:"1s" max:"10m" group:"Work" help:"How long one call to a model may take."`
	FirstToken       time.Duration `name:"first-token-timeout" from:"SLUICE_FIRST_TOKEN_TIMEOUT" use:"work dev" default:"30s" min:"1s" max:"10m" group:"Work" help:"How long a model may take to its first token; more for models that reason in silence."`
	IdleTimeout      time.Duration `name:"idle-timeout" from:"SLUICE_IDLE_TIMEOUT" use:"work dev" default:"20s" min:"1s" max:"10m" group:"Work" help:"How long a model's stream may be silent after that."`
	Bulkhead         int           `name:"bulkhead" from:"SLUICE_BULKHEAD" use:"work dev" default:"0" min:"0" max:"10000" group:"Work" help:"Calls under way per model and key in one process; 0 is half of SLUICE_RUN_WORKERS."`
	ActionTimeout    time.Duration `name:"action-timeout" from:"SLUICE_ACTION_TIMEOUT" use:"work dev" default:"15s" min:"1s" max:"5m" group:"Work" help:"How long one try at an action may take."`
	ShutdownTimeout  time.Duration `name:"shutdown-timeout" from:"SLUICE_SHUTDOWN_TIMEOUT" use:"serve work dev" default:"30s" min:"1s" max:"30m" group:"Serving" help:"After SIGTERM, how long what is under way may go on."`
	DrainDelay       time.Duration `name:"drain-delay" from:"SLUICE_DRAIN_DELAY" use:"serve" default:"0s" min:"0s" max:"5m" group:"Serving" help:"After SIGTERM, how long requests are still taken while /readyz says 503, so that load balancers turn away first."`
	DenyNetworks     string        `name:"deny-networks" from:"SLUICE_DENY_NETWORKS" use:"serve work dev" shape:"networks" group:"Work" help:"Networks that no tenant's address may reach, with commas between them, such as 203.0.113.0/24: the public addresses of your own hosts, a NAT64 prefix of your own. What is private is refused anyway."`
	AllowLoopback    bool          `name:"allow-loopback" from:"SLUICE_ALLOW_LOOPBACK" use:"serve work dev" default:"false" group:"Work" help:"Lets callbacks reach loopback addresses; for development."`

	SMTPURL  tenants.Secret `name:"smtp-url" from:"SLUICE_SMTP_URL" use:"work dev" shape:"smtp" secret:"true" group:"Alerts" help:"The mail server that alerts by e-mail are handed to: smtp://user:password@host:587, which must offer STARTTLS unless it is on this machine, or smtps://user:password@host:465. Without it, alert channels of the kind email say so."`
	SMTPFrom string         `name:"smtp-from" from:"SLUICE_SMTP_FROM" use:"work dev" shape:"sender" group:"Alerts" help:"The sender of that mail, such as Sluice <alerts@example.com>; needed with SLUICE_SMTP_URL."`

	LogLevel     slog.Level `name:"log-level" from:"SLUICE_LOG_LEVEL" use:"serve work dev" default:"info" shape:"debug|info|warn|error" group:"Telemetry" help:"The lowest level that is logged: debug, info, warn or error."`
	LogFormat    string     `name:"log-format" from:"SLUICE_LOG_FORMAT" use:"serve work dev" default:"json" shape:"json|text" group:"Telemetry" help:"json or text."`
	OTLPEndpoint string     `name:"otlp-endpoint" from:"OTEL_EXPORTER_OTLP_ENDPOINT" use:"serve work dev" shape:"url" group:"Telemetry" help:"Base URL of a collector that speaks OTLP over HTTP, such as http://collector:4318. Its headers are in OTEL_EXPORTER_OTLP_HEADERS."`
	ServiceName  string     `name:"service-name" from:"OTEL_SERVICE_NAME" use:"serve work dev" default:"sluice" group:"Telemetry" help:"What traces and metrics call this process."`
	TraceRatio   float64    `name:"trace-ratio" from:"SLUICE_TRACE_RATIO" use:"serve work dev" default:"1" min:"0" max:"1" group:"Telemetry" help:"The part of the traces that is sent."`
}
