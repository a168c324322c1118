import { once } from 'node:events'
import { createServer, get } from 'node:https'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import type { TestContext } from 'node:test'
import type { PemPair } from '../../../shared/trust/pki.ts'

/** Serves over TLS with a certificate until the test is over; answers 'served' to everything. */
export async function serveTls(t: TestContext, { cert, key }: PemPair): Promise<number> {
  const server = createServer({ cert, key }, (_request, response) => response.end('served'))
  // Refused handshakes are what some tests are about.
  server.on('tlsClientError', () => undefined)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return (server.address() as AddressInfo).port
}

/** What a client gets that trusts nothing but this CA; throws what TLS refused. */
export async function fetchOver(options: {
  readonly host: string
  readonly port: number
  readonly ca?: string
  readonly servername?: string
}): Promise<string> {
  const request = get({ path: '/', agent: false, family: 4, ca: '', ...options })
  const [response] = (await once(request, 'response')) as [NodeJS.ReadableStream]
  return text(response)
}
