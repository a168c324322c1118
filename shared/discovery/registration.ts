import type { Logger } from '../observability/log.ts'
import { realPace, type Pace } from './blocking-query.ts'
import {
  ConsulError,
  openConsul,
  type ConsulClient,
  type ServiceRegistration,
} from './consul-client.ts'
import type { ConsulOptions } from './options.ts'
import { serviceOf, type Announcement } from './service.ts'

export interface RegistrationOptions {
  readonly client: ConsulClient
  readonly service: ServiceRegistration
  /** Asked before each beat; a service that is not stays registered, and is critical. */
  readonly isHealthy?: () => boolean | Promise<boolean>
  readonly log: Logger
  readonly pace?: Pace
}

/** A service that stays registered. */
export interface Registration {
  /** Ends the beat, and takes the service off Consul's list, if that answers soon. Called again, it does nothing. */
  close(): Promise<void>
}

/** Beats in the time of a check. */
const beatsPerTtl = 3
/** A beat is up to so much earlier than its time: many that started together spread. */
const beatJitter = 0.2
const firstRetryMs = 1000
/** Leaving is a courtesy: the check would tell soon enough. */
const leaveMs = 3000
/** It never changes: a new text would be written to the servers each time. */
const unhealthyNote = 'Outport says that it cannot serve'

/**
 * Keeps a service registered at its agent: a beat well before its check lapses, which changes nothing there and is written
 * nowhere; and the whole again when the agent has lost it. Consul may be away when this begins, and at any time.
 */
export function keepRegistered(options: RegistrationOptions): Registration {
  const { client, service, isHealthy = () => true, log, pace = realPace } = options
  const closing = new AbortController()
  const { signal } = closing
  const beatMs = service.check.ttlMs / beatsPerTtl
  let isRegistered = false
  let failures = 0
  let isSaid = false

  async function beat(): Promise<void> {
    const status = (await holds(isHealthy)) ? 'passing' : 'critical'
    if (!isRegistered) {
      await client.register({ ...service, check: { ...service.check, status } }, signal)
      isRegistered = true
    }
    // After registering too: of a check that was there already, the agent keeps the state.
    if (status === 'passing') await client.pass(service.check.id, signal)
    else await client.fail(service.check.id, unhealthyNote, signal)
  }

  /** @returns milliseconds until the next one */
  async function turn(): Promise<number> {
    try {
      await beat()
      failures = 0
      if (!isSaid) log.info({ service: service.id }, 'registered at Consul')
      isSaid = true
      return beatMs * (1 - pace.random() * beatJitter)
    } catch (err) {
      if (signal.aborted) return 0
      failures++
      if (isRegistered && isForgotten(err)) {
        isRegistered = false
        if (failures === 1) return 0
      }
      if (isSaid || failures === 1)
        log.warn({ err, service: service.id }, 'not registered at Consul: it is tried again')
      isSaid = false
      return Math.min(firstRetryMs * 2 ** (failures - 1), beatMs) * (1 - pace.random() / 2)
    }
  }

  async function run(): Promise<void> {
    while (!signal.aborted) await pace.delay(await turn(), signal)
  }

  const running = run()
  let left: Promise<void> | undefined
  return {
    close() {
      left ??= (async () => {
        closing.abort()
        await running
        // It may have been registered by a request that was called off.
        await client
          .deregister(service.id, AbortSignal.timeout(leaveMs))
          .catch((err: unknown) =>
            log.info({ err, service: service.id }, 'Consul was not told that this ends'),
          )
      })()
      return left
    },
  }
}

async function holds(isHealthy: () => boolean | Promise<boolean>): Promise<boolean> {
  try {
    return await isHealthy()
  } catch {
    return false
  }
}

/** Agents say 404 of a check that they do not know, and older ones 500: then it is registered again. */
function isForgotten(error: unknown): boolean {
  return error instanceof ConsulError && (error.status === 404 || error.status === 500)
}

/** What a program announces, without what its options say. */
export interface Announced extends Omit<Announcement, 'ttlMs' | 'deregisterAfterMs' | 'tags'> {
  readonly name: Parameters<typeof serviceOf>[0]
}

/**
 * Announces a program at Consul, if its configuration says so.
 * @param options undefined: nothing happens
 * @throws Error with a one-line message that names a file that cannot be read; RangeError for what cannot be announced.
 *   Consul itself may be away
 */
export async function announce(
  options: ConsulOptions | undefined,
  {
    announced: { name, ...announced },
    ...rest
  }: { readonly announced: Announced } & Pick<RegistrationOptions, 'isHealthy' | 'log'>,
): Promise<Registration> {
  if (options === undefined) return { close: async () => undefined }
  const service = serviceOf(name, {
    ...announced,
    // These may be written in other ways than as an origin.
    url: new URL(options.url ?? announced.url).origin,
    tags: options.tags,
    ttlMs: options.ttl,
    deregisterAfterMs: options.deregister_after,
  })
  const client = await openConsul(options)
  const registration = keepRegistered({ client, service, ...rest })
  return {
    async close() {
      await registration.close()
      client.close()
    },
  }
}
