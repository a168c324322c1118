import { openConsul } from '../../shared/discovery/consul-client.ts'
import { watchMembers, type Member } from '../../shared/discovery/members.ts'
import type { ConsulOptions } from '../../shared/discovery/options.ts'
import type { Logger } from '../../shared/observability/log.ts'

/** Who of the edges is healthy, as Consul says it. */
export interface HealthySite {
  /** Of those that the primary lists; none before Consul said anything, and always without Consul. */
  healthy(): readonly Member[]
  close(): Promise<void>
}

/**
 * Watches Consul, if the configuration names one; Consul may be away when this begins, and at any time.
 * @param deps.listed the edges that the primary lists: others do not count, whatever Consul says
 * @throws Error with a one-line message that names a file that cannot be read
 */
export async function watchSite(
  options: ConsulOptions | undefined,
  { listed, log }: { readonly listed: () => readonly string[]; readonly log: Logger },
): Promise<HealthySite> {
  if (options === undefined) return { healthy: () => [], close: async () => undefined }
  const client = await openConsul(options)
  const members = watchMembers({ client, roster: listed, log })
  return {
    healthy: () => members.list(),
    async close() {
      await members.close()
      client.close()
    },
  }
}
