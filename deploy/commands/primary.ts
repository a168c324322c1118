import { defineCommand } from '../command-line.ts'
import { configOptions } from './config-options.ts'

/** `outport primary` */
export const primary = defineCommand({
  name: 'primary',
  summary: 'the registry that images are pushed to',
  options: configOptions,
  async run(options) {
    const { checkAlone, runAlone } = await import('../run-alone.ts')
    return options.check ? checkAlone('primary', options) : runAlone('primary', options)
  },
})
