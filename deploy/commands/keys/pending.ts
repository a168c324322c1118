import { defineCommand } from '../../command-line.ts'
import { adminOptions } from '../edges/options.ts'

/** `outport keys pending` */
export const pending = defineCommand({
  name: 'keys pending',
  summary: 'the list of keys that waits to be signed by a root that is kept offline',
  options: {
    ...adminOptions,
    out: { type: 'string', value: 'FILE', help: 'write it there, for a machine without a network' },
    'next-epoch': { type: 'boolean', help: 'the one that has the log go on after a restore' },
  },
  async run(options) {
    const { withAdminApi } = await import('../../admin-api.ts')
    const { describePending, fetchPending } = await import('./pending-list.ts')
    const { writeFileAtomic } = await import('../../../shared/files/atomic-write.ts')
    return withAdminApi(options, async (api) => {
      const waiting = await fetchPending(api, { nextEpoch: options['next-epoch'] })
      const text = `${JSON.stringify(waiting ?? {}, undefined, 2)}\n`
      if (waiting !== undefined && options.out !== undefined)
        await writeFileAtomic(options.out, text)
      if (options.json) process.stdout.write(text)
      else if (waiting === undefined) process.stdout.write('No list waits to be signed.\n')
      else process.stdout.write(describePending(waiting))
      return 0
    })
  },
})
