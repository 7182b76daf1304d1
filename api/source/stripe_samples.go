package source

var stripeSamples = []Sample{
	{Type: "charge.failed", Body: sampleBody(`
{
  "id": "$ID",
  "object": "event",
  "api_version": "2025-09-30.clover",
  "created": $UNIX,
  "data": {
    "object": {
      "id": "ch_$NUMBER",
      "object": "charge",
      "amount": 4900,
      "amount_refunded": 0,
      "billing_details": {"email": "sample.customer@example.com", "name": "Sample Customer"},
      "captured": false,
      "created": $UNIX,
      "currency": "usd",
      "customer": "cus_SampleCustomer1",
      "description": "Team plan, monthly",
      "failure_code": "card_declined",
      "failure_message": "Your card has insufficient funds.",
      "invoice": "in_SampleInvoice1",
      "livemode": false,
      "outcome": {
        "network_status": "declined_by_network",
        "reason": "insufficient_funds",
        "risk_level": "normal",
        "seller_message": "The bank returned the decline code insufficient_funds.",
        "type": "issuer_declined"
      },
      "paid": false,
      "payment_method_details": {"card": {"brand": "visa", "exp_month": 4, "exp_year": 2031, "last4": "9995"}, "type": "card"},
      "status": "failed"
    }
  },
  "livemode": false,
  "pending_webhooks": 1,
  "request": {"id": null, "idempotency_key": null},
  "type": "charge.failed"
}`)},
	{Type: "customer.subscription.deleted", Body: sampleBody(`
{
  "id": "$ID",
  "object": "event",
  "api_version": "2025-09-30.clover",
  "created": $UNIX,
  "data": {
    "object": {
      "id": "sub_$NUMBER",
      "object": "subscription",
      "canceled_at": $UNIX,
      "cancellation_details": {"comment": "Too many alerts at night.", "feedback": "too_complex", "reason": "cancellation_requested"},
      "collection_method": "charge_automatically",
      "currency": "usd",
      "customer": "cus_SampleCustomer1",
      "ended_at": $UNIX,
      "items": {
        "object": "list",
        "data": [
          {
            "id": "si_SampleItem1",
            "object": "subscription_item",
            "price": {"id": "price_SampleTeam", "object": "price", "currency": "usd", "unit_amount": 4900, "recurring": {"interval": "month"}},
            "quantity": 3
          }
        ],
        "has_more": false
      },
      "livemode": false,
      "metadata": {"account": "acme"},
      "status": "canceled"
    }
  },
  "livemode": false,
  "pending_webhooks": 1,
  "request": {"id": "req_SampleRequest1", "idempotency_key": null},
  "type": "customer.subscription.deleted"
}`)},
	{Type: "invoice.payment_failed", Body: sampleBody(`
{
  "id": "$ID",
  "object": "event",
  "api_version": "2025-09-30.clover",
  "created": $UNIX,
  "data": {
    "object": {
      "id": "in_$NUMBER",
      "object": "invoice",
      "amount_due": 14700,
      "amount_paid": 0,
      "amount_remaining": 14700,
      "attempt_count": 2,
      "attempted": true,
      "billing_reason": "subscription_cycle",
      "collection_method": "charge_automatically",
      "created": $UNIX,
      "currency": "usd",
      "customer": "cus_SampleCustomer1",
      "customer_email": "sample.customer@example.com",
      "customer_name": "Sample Customer",
      "lines": {
        "object": "list",
        "data": [{"id": "il_SampleLine1", "object": "line_item", "amount": 14700, "currency": "usd", "description": "3 x Team plan (at $49.00 / month)", "quantity": 3}],
        "has_more": false
      },
      "livemode": false,
      "number": "SAMPLE-0002",
      "status": "open"
    }
  },
  "livemode": false,
  "pending_webhooks": 1,
  "request": {"id": null, "idempotency_key": null},
  "type": "invoice.payment_failed"
}`)},
}
