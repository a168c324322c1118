import { createHttpClient, type HttpClient } from '../../../shared/http/client.ts'
import { createGuard } from '../../../shared/http/guard.ts'
import { pingPath } from '../../../shared/oci/paths.ts'

/** Asks edges whether they are there. */
export interface Pings {
  /** @returns milliseconds of a request over a connection that stands; undefined when it does not answer as a registry */
  ping(url: string): Promise<number | undefined>
  close(): void
}

/** Whoever is slower than that is nobody's nearest. */
const answerMs = 2000
/** With a challenge, or without. */
const wellStatuses: ReadonlySet<number> = new Set([200, 401])

/** @param options.ca PEM of the CAs to trust instead of the system's */
export function createPings({ ca }: { readonly ca: string | undefined }): Pings {
  const clients = new Map<string, HttpClient>()
  const clientOf = (url: URL): HttpClient => {
    const known = clients.get(url.origin)
    if (known !== undefined) return known
    const client = createHttpClient({
      guard: createGuard({ configured: [url] }),
      ca,
      ownOrigin: url,
      connectTimeoutMs: answerMs,
      headersTimeoutMs: answerMs,
      stallMs: answerMs,
    })
    clients.set(url.origin, client)
    return client
  }
  return {
    async ping(text) {
      const url = new URL(pingPath, text)
      const client = clientOf(new URL(url.origin))
      const ask = async (): Promise<boolean> => {
        const signal = AbortSignal.timeout(answerMs)
        const { status } = await client.request(url, { maxBytes: 64 * 1024, signal })
        return wellStatuses.has(status)
      }
      try {
        // The first one stands for the connection.
        if (!(await ask())) return undefined
        const startedAt = performance.now()
        return (await ask()) ? performance.now() - startedAt : undefined
      } catch {
        return undefined
      }
    },
    close() {
      for (const client of clients.values()) client.close()
    },
  }
}
