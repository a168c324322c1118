import { isRecord } from '../../../shared/config/record.ts'
import { defineCommand } from '../../command-line.ts'
import { printAnswer } from '../edges/change.ts'
import { adminOptions } from '../edges/options.ts'

/** `outport keys accept-epoch` */
export const acceptEpoch = defineCommand({
  name: 'keys accept-epoch',
  summary: 'have the log go on after its database was restored: edges take it as it is now',
  options: {
    ...adminOptions,
    force: { type: 'boolean', help: 'also where the primary sees nothing wrong' },
  },
  async run(options) {
    const { withAdminApi } = await import('../../admin-api.ts')
    return withAdminApi(options, async (api) => {
      const { text, json } = await api.call('/keys/epoch', {
        method: 'POST',
        body: { ...(options.force && { force: true }) },
        absent: 'this primary has no log: check that --primary is an Outport primary',
      })
      const epoch = isRecord(json) ? Number(json['epoch']) : NaN
      printAnswer(text, { json: options.json, done: `The log goes on in epoch ${epoch}.` })
      return 0
    })
  },
})
