package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/jackc/pgx/v5/pgxpool"

	"sluice/jobs"
	"sluice/tenants"
)

// fileSuffix behind the name of a variable makes the name of one that holds a path.
const fileSuffix = "_FILE"

// headerNameRunes are those that the names of headers are made of in practice.
const headerNameRunes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

// settingBytesMax bounds a value that is read from a file.
const settingBytesMax = 64 << 10

// settings fills Config: kong asks it for what the command line does not say, and to make values of texts. It collects every fault, so that
// all are told at once, and repeats no value of a secret.
type settings struct {
	lookup func(string) (string, bool)
	faults []string
	faulty map[string]bool
}

func newSettings(lookup func(string) (string, bool)) *settings {
	return &settings{lookup: lookup, faulty: map[string]bool{}}
}

// isSetting says whether a flag is a field of Config.
func isSetting(flag *kong.Flag) bool { return flag.Tag != nil && flag.Tag.Has("use") }

// uses says whether a command is among those of a tag, "use" or "need".
func uses(flag *kong.Flag, tag, command string) bool {
	return slices.Contains(strings.Fields(flag.Tag.Get(tag)), command)
}

// options make kong ask s for the fields of Config.
func (s *settings) options() []kong.Option {
	return []kong.Option{
		kong.Resolvers(s), kong.PostBuild(s.install),
		// Kong wants to know types that it does not understand before the fields are looked at.
		kong.TypeMapper(reflect.TypeFor[tenants.Secret](), s), kong.TypeMapper(reflect.TypeFor[masterKey](), s),
		kong.TypeMapper(reflect.TypeFor[masterKeys](), s),
	}
}

// install makes s decode every field of Config, and no other flag.
func (s *settings) install(k *kong.Kong) error {
	for _, flag := range k.Model.Flags {
		if isSetting(flag) {
			flag.Mapper = s
		}
	}
	return nil
}

// fault notes what is wrong with a setting.
func (s *settings) fault(flag *kong.Flag, format string, args ...any) {
	s.faulty[flag.Name] = true
	s.faults = append(s.faults, fmt.Sprintf("--%s (%s): %s", flag.Name, flag.Tag.Get("from"), fmt.Sprintf(format, args...)))
}

// nothing is what kong takes for no answer.
var nothing any

// Validate is part of kong.Resolver.
func (*settings) Validate(*kong.Application) error { return nil }

// Resolve is what the environment says of a flag that is not on the command line; nil is nothing.
func (s *settings) Resolve(ctx *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if !isSetting(flag) || !uses(flag, "use", commandOf(ctx)) {
		return nothing, nil
	}
	name := flag.Tag.Get("from")
	value, given := s.lookup(name)
	value = strings.TrimSpace(value)
	path, _ := s.lookup(name + fileSuffix)
	switch {
	case path != "" && value != "":
		s.fault(flag, "%s and %s%s are both set; expected one of them", name, name, fileSuffix)
		return nothing, nil
	case path != "":
		text, err := readSetting(path)
		if err != nil {
			s.fault(flag, "%s%s: %s", name, fileSuffix, err)
			return nothing, nil
		}
		value = text
	case given && value == "" && flag.Tag.Has("empty"):
		return "", nil
	}
	if value == "" {
		return nothing, nil
	}
	return value, nil
}

// commandOf is the first word of the selected command.
func commandOf(ctx *kong.Context) string {
	if words := strings.Fields(ctx.Command()); len(words) > 0 {
		return words[0]
	}
	return ""
}

// readSetting reads a value from a file; an empty file is no value.
func readSetting(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("cannot be read: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, settingBytesMax+1))
	if err != nil {
		return "", fmt.Errorf("cannot be read: %w", err)
	}
	if len(text) > settingBytesMax {
		return "", fmt.Errorf("%s is larger than %d bytes", path, settingBytesMax)
	}
	return strings.TrimSpace(string(text)), nil
}

// Decode makes a value of a text, or notes a fault and leaves the zero value.
func (s *settings) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	flag := ctx.Value.Flag
	text := "true"
	if target.Kind() != reflect.Bool || ctx.Scan.Peek().Type == kong.FlagValueToken {
		token, err := ctx.Scan.PopValue("value")
		if err != nil {
			return err
		}
		text = fmt.Sprint(token.Value)
	}
	value, err := parseSetting(flag.Tag, target.Type(), text)
	if err != nil {
		if flag.Tag.Has("secret") {
			s.fault(flag, "%s", err)
		} else {
			s.fault(flag, "%s, got %q", err, text)
		}
		return nil
	}
	target.Set(reflect.ValueOf(value).Convert(target.Type()))
	return nil
}

// check returns every fault of what the command needs, those found on the way included.
func (s *settings) check(ctx *kong.Context) []string {
	command := commandOf(ctx)
	for _, flag := range ctx.Model.Flags {
		if !isSetting(flag) {
			continue
		}
		if onCommandLine := slices.ContainsFunc(ctx.Path, func(p *kong.Path) bool { return p.Flag == flag && !p.Resolved }); onCommandLine && !uses(flag, "use", command) {
			s.fault(flag, "is not used by sluice %s", command)
		}
		if uses(flag, "need", command) && flag.Target.IsZero() && !s.faulty[flag.Name] {
			s.fault(flag, "is missing; expected %s", expected(flag.Tag, flag.Target.Type()))
		}
	}
	return s.faults
}

// expected says what a setting's text has to be.
func expected(tag *kong.Tag, of reflect.Type) string {
	lowest, highest := tag.Get("min"), tag.Get("max")
	switch {
	case of == reflect.TypeFor[masterKey]():
		return "32 bytes in hex, base64 or base64url"
	case of == reflect.TypeFor[masterKeys]():
		return "keys of 32 bytes in hex, base64 or base64url, with commas between them"
	case of == reflect.TypeFor[time.Duration]():
		return fmt.Sprintf("a duration from %s to %s, such as %s", lowest, highest, tag.Default)
	case of == reflect.TypeFor[int](), of == reflect.TypeFor[float64]():
		return fmt.Sprintf("a number from %s to %s", lowest, highest)
	case of.Kind() == reflect.Bool:
		return "true or false"
	}
	switch shape := tag.Get("shape"); shape {
	case "":
		return "a text"
	case "listen":
		return "host:port or :port, such as " + tag.Default
	case "postgres":
		return "postgres://user:password@host:port/database"
	case "url":
		return "an http or https URL without user, query and fragment"
	case "headers":
		return "names of headers with commas between them"
	case "networks":
		return "networks such as 203.0.113.0/24 or 2001:db8::/32, with commas between them"
	case "smtp":
		return "smtp://user:password@host:587 or smtps://user:password@host:465"
	case "sender":
		return "an address of e-mail, with or without a name, such as Sluice <alerts@example.com>"
	default:
		return "one of " + strings.ReplaceAll(shape, "|", ", ")
	}
}

// parseSetting makes a value of a setting's text. Its error says what was expected, and does not repeat the text.
func parseSetting(tag *kong.Tag, of reflect.Type, text string) (any, error) {
	unexpected := errors.New("expected " + expected(tag, of))
	switch {
	case of == reflect.TypeFor[masterKey]():
		if key, ok := parseMasterKey(text); ok {
			return key, nil
		}
		return nil, unexpected
	case of == reflect.TypeFor[masterKeys]():
		if keys, ok := parseMasterKeys(text); ok {
			return keys, nil
		}
		return nil, unexpected
	case of == reflect.TypeFor[time.Duration]():
		return parseWithin(text, tag, time.ParseDuration, unexpected)
	case of == reflect.TypeFor[slog.Level]():
		var level slog.Level
		if !slices.Contains(strings.Split(tag.Get("shape"), "|"), strings.ToLower(text)) || level.UnmarshalText([]byte(text)) != nil {
			return nil, unexpected
		}
		return level, nil
	case of == reflect.TypeFor[int]():
		return parseWithin(text, tag, strconv.Atoi, unexpected)
	case of == reflect.TypeFor[float64]():
		return parseWithin(text, tag, func(s string) (float64, error) { return strconv.ParseFloat(s, 64) }, unexpected)
	case of.Kind() == reflect.Bool:
		value, err := strconv.ParseBool(text)
		if err != nil {
			return nil, unexpected
		}
		return value, nil
	}
	text, ok := shaped(tag, text)
	if !ok {
		return nil, unexpected
	}
	if of == reflect.TypeFor[tenants.Secret]() {
		return tenants.NewSecret(text), nil
	}
	return text, nil
}

// parseWithin holds a value against the bounds of its tag.
func parseWithin[T int | float64 | time.Duration](text string, tag *kong.Tag, parse func(string) (T, error), unexpected error) (any, error) {
	value, err := parse(text)
	if err != nil {
		return nil, unexpected
	}
	lowest, err := parse(tag.Get("min"))
	if err != nil {
		return nil, fmt.Errorf("the tag min: %w", err)
	}
	highest, err := parse(tag.Get("max"))
	if err != nil {
		return nil, fmt.Errorf("the tag max: %w", err)
	}
	if !(value >= lowest && value <= highest) { // also where it is no number
		return nil, unexpected
	}
	return value, nil
}

// shaped says whether a text is of its tag's shape, and returns it as it is kept.
func shaped(tag *kong.Tag, text string) (string, bool) {
	switch shape := tag.Get("shape"); shape {
	case "":
		return text, true
	case "listen":
		if text == "" {
			return "", tag.Has("empty")
		}
		_, port, err := net.SplitHostPort(text)
		if err != nil {
			return "", false
		}
		_, err = strconv.ParseUint(port, 10, 16)
		return text, err == nil
	case "postgres":
		_, err := pgxpool.ParseConfig(text)
		return text, err == nil && text != ""
	case "url":
		u, err := url.Parse(text)
		ok := err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && u.User == nil && u.RawQuery == "" && u.Fragment == ""
		return strings.TrimRight(text, "/"), ok
	case "networks":
		_, ok := networks(text)
		return text, ok
	case "smtp":
		return text, jobs.CheckMailURL(text) == nil
	case "sender":
		return text, jobs.CheckMailSender(text) == nil
	case "headers":
		return text, !slices.ContainsFunc(headerNames(text), func(name string) bool { return strings.Trim(name, headerNameRunes) != "" })
	default:
		return text, slices.Contains(strings.Split(shape, "|"), text)
	}
}

// networks are those of a list with commas between them; false says that one of them is none.
func networks(text string) ([]netip.Prefix, bool) {
	var out []netip.Prefix
	for one := range strings.SplitSeq(text, ",") {
		one = strings.TrimSpace(one)
		if one == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(one)
		if err != nil {
			return nil, false
		}
		out = append(out, prefix)
	}
	return out, true
}
