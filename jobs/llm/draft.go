package llm

import "encoding/json"

// A draft is a reply while it comes in.
type draft struct {
	reply Reply
	text  []byte
	// unseen counts what the model wrote beside its text: thoughts, arguments of tools. It is billed as the text is.
	unseen tokenCount
	usage  json.RawMessage
	// wrote: the model's first token is there. finished: the model said why it stopped, so that the text is whole. ended: the protocol
	// has nothing more to say.
	wrote, finished, ended bool
	opened, refused        bool
	key                    string // Is cut out of the provider's words.
}

// A dialogue is one vendor's protocol as far as replies go.
type dialogue struct {
	// take reads the data of one event, or a whole body where the server did not stream. Its error is a *Error.
	take func(d *draft, data []byte) error
	// usage reads a usage object.
	usage func(raw json.RawMessage, text string) (Usage, string)
}

// open notes whose reply it is.
func (d *draft) open(id, model string) {
	if !d.opened {
		d.reply.ResponseID, d.reply.ModelServed, d.opened = id, model, true
	}
}

// write adds to the text.
func (d *draft) write(text string) {
	d.text = append(d.text, text...)
	d.wrote = d.wrote || text != ""
}

// think counts what the model wrote and we do not keep.
func (d *draft) think(text string) {
	d.unseen.add(text)
	d.wrote = d.wrote || text != ""
}

// stop notes the model's end.
func (d *draft) stop(f Finish) {
	if d.refused {
		f = FinishRefused
	}
	d.reply.Finish, d.finished = f, true
}

// report takes a usage object over what was reported before. Vendors report cumulatively, and leave out, or set to null, what has not
// changed.
func (d *draft) report(raw json.RawMessage) {
	if absent(raw) {
		return
	}
	if d.usage == nil {
		d.usage = append(json.RawMessage(nil), raw...)
		return
	}
	var before, now map[string]json.RawMessage
	if json.Unmarshal(d.usage, &before) != nil || json.Unmarshal(raw, &now) != nil || before == nil {
		// It will be found to be of no form that we know.
		d.usage = append(json.RawMessage(nil), raw...)
		return
	}
	for field, value := range now {
		if !absent(value) {
			before[field] = value
		}
	}
	if merged, err := json.Marshal(before); err == nil {
		d.usage = merged
	}
}

// whole is the reply once the model has finished.
func (d *draft) whole(words dialogue) Reply {
	d.reply.Text = string(d.text)
	d.reply.RawUsage = d.usage
	d.reply.Usage, d.reply.UsageFault = words.usage(d.usage, d.reply.Text)
	return d.reply
}

// broken tells e what was seen of a reply that did not come whole.
func (d *draft) broken(e *Error, words dialogue) *Error {
	e.Usage, _ = words.usage(d.usage, "")
	seen := d.unseen
	seen.add(string(d.text))
	e.OutputSeen = seen.tokens()
	return e
}

// faultInStream is a provider's error in the midst of a stream, where there is no status to tell its kind.
func faultInStream(raw json.RawMessage, key string) *Error {
	said, known := readProviderError(raw)
	e := &Error{Kind: KindUnavailable, Code: oneLine(said.Code, key), Message: oneLine(said.Message, key), Sent: true}
	if e.Code == "" {
		e.Code = oneLine(said.Type, key)
	}
	switch {
	case !known:
		e.Kind, e.Message = KindMalformedReply, "the stream holds an error that cannot be read"
	case said.quota():
		e.Kind = KindQuotaExhausted
	case said.is("rate_limit_error", "rate_limit_exceeded"):
		e.Kind = KindRateLimited
	case said.is("overloaded_error", "server_overloaded", "engine_overloaded"):
		e.Kind = KindOverloaded
	}
	return e
}
