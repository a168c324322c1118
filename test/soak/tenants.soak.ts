// A hundred thousand requests of three tenants at three upstreams, whose rights come and go.

process.env['OUTPORT_TENANT_REQUESTS'] ??= '100000'
await import('../edge/access/tenants.test.ts')
